// Consolidations that were asked for, and what became of them.

import { badge, fill, h, row, table, when } from "./dom.js";

const SHOWN = 12;

export function queue(place, { requests }) {
  const open = requests.filter((each) => ["pending", "claimed"].includes(each.status));
  const done = requests.filter((each) => !open.includes(each));
  fill(place,
    open.length ? requestsTable("Consolidations in the queue", open) : h("p.dim", {}, "Nothing waits."),
    done.length && h("details", {}, h("summary", {}, `The last ${Math.min(SHOWN, done.length)} that ended`),
      requestsTable("Consolidations that ended", done.slice(0, SHOWN))));
}

const requestsTable = (caption, requests) => table(caption, ["Status", "Asked for", "Because", "What became of it"], requests.map((each) => row([
  badge(each.status), h("span", {}, `${each.id} · `, when(each.created)), because(each), each.outcome ?? (each.folded_into ? `taken along by ${each.folded_into}` : ""),
])));

function because(request) {
  const where = request.series ? ` of ${request.series}, segment ${request.segment}` : "";
  const who = request.reason === "manual" ? ` by ${request.actor}: ${request.note}` : "";
  return `${request.reason}${where}${who}`;
}
