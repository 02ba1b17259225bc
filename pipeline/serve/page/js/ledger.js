// The ledger, the newest entry first, and whether its chain holds.

import { get, newest } from "./api.js";
import { count, fill, full, h, ms, row, table } from "./dom.js";
import { told } from "./told.js";

const MOST = 100;

export async function open(place) {
  const streams = await get("streams");
  const list = h("div.body"), findings = h("ul.findings"), said = h("p.verdict", { role: "status" });
  const of = h("select", { id: "of", onchange: () => draw() }, h("option", { value: "" }, "every stream"), streams.map((each) => h("option", { value: each.name }, each.name)));
  const verify = h("button.strong", { type: "button", id: "verify", onclick: prove }, "Verify");
  let most = MOST;
  async function draw() {
    const entries = await newest("ledger", most, { stream: of.value || null });
    fill(list,
      table("Entries of the ledger", ["No.", "When", "What", "Who", "Whole"], entries.map(entryRow)),
      entries.length === most && h("button.plain", { type: "button", "data-key": "more", onclick: () => { most += MOST; draw(); } }, "Earlier ones"));
  }
  async function prove() {
    verify.disabled = true;
    said.textContent = "Every entry is hashed again…";
    delete said.dataset.holds;
    fill(findings);
    try {
      const found = await get("ledger/verify");
      said.dataset.holds = found.holds;
      said.textContent = found.holds
        ? `The chain holds: ${count(found.entries, "entry", "entries")}, each with the hash of the one before.`
        : `${count(found.findings.length, "thing is", "things are")} not as it was written.`;
      fill(findings, found.findings.map((each) => h("li", {}, h("strong", {}, `${each.entry ? `Entry ${each.entry}` : each.where}: ${each.what}.`), ` ${each.detail}`)));
    } catch (failure) {
      said.textContent = failure.message;
    } finally {
      verify.disabled = false;
    }
  }
  place.append(
    h("h1", { tabindex: -1 }, "Ledger"),
    h("p.lead", {}, "Every decision, in order. Each entry carries the hash of the one before, so nothing in between can be changed unseen."),
    h("div.acts", {}, h("label.inline", { for: "of" }, "Of"), of, verify), said, findings, list);
  await draw();
  return { changed: () => draw().catch(() => {}) };
}

function entryRow(entry) {
  return row([
    entry.id, h("time", { datetime: entry.at }, full(ms(entry.at))), told(entry), entry.actor,
    h("details", {}, h("summary", {}, "entry"), h("pre", {}, JSON.stringify(entry.entry, null, 1)), h("p.hash", {}, entry.hash)),
  ]);
}
