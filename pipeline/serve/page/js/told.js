// Entries of the ledger as sentences.

const NAMED = {
  boundary: (e) => `A boundary in ${e.series}, row ${e.boundary_row?.toLocaleString?.() ?? e.boundary_row}`,
  promoted: (e) => `Version ${e.version} is champion`,
  promotion: (e) => `Version ${e.version} is champion`,
  rollback: (e) => `Version ${e.version} was rolled back`,
  version: (e) => `Version ${e.version} was registered`,
  request: (e) => `A consolidation was asked for (${e.reason})`,
};

export function told(entry) {
  const about = entry.stream ? `${entry.stream}: ` : "";
  const known = NAMED[entry.kind];
  return `${about}${known ? known(entry.entry ?? {}) : entry.kind.replaceAll("_", " ")}`;
}

// Whether it is worth a word on whatever page one is.
export const isTold = (entry) => entry.kind !== "login_failed";
