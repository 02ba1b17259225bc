// R as a heat map, with what the champion has forgotten of each regime.

import { fill, h, row, table } from "./dom.js";

//: Rows that are shown, the newest; and the steps of colour, from -1 (or worse) to 1.
const ROWS = 16, STEPS = 8;

export function heatMap(place, matrix, { stream }) {
  const measured = matrix.filter((each) => Object.keys(each.skills).length);
  const lived = measured.filter((each) => ["champion", "retired", "rolled_back"].includes(each.status));
  const draw = (rows, of) => {
    const tasks = [...new Set(rows.flatMap((each) => Object.keys(each.skills)))].sort((a, b) => number(a) - number(b));
    return table(of, ["Version", ...tasks], [
      ...rows.map((each) => row([
        h("th", { scope: "row" }, `${each.version}`, each.version === stream.champion ? h("span.aside", {}, " (champion)") : null, each.version === stream.champion ? h("i.crown", { "aria-hidden": true }, "●") : null),
        ...tasks.map((task) => cell(each.skills[task])),
      ], { "data-status": each.status })),
      forgetting(lived, tasks, stream.champion),
    ], { class: "heat" });
  };
  fill(place, lived.length ? [
    draw(lived.slice(-ROWS), "R, a row for each version that was champion"),
    measured.length > lived.length && h("details", {}, h("summary", {}, "With what was tried and refused"), draw(measured.slice(-ROWS * 2), "R, a row for each version")),
  ] : h("p.dim", {}, "Nothing was measured yet."));
}

const number = (task) => Number(task.replace(/\D+/g, ""));

function cell(skill) {
  if (skill === undefined) return h("td.none", {}, h("span.aside", {}, "not measured"));
  const step = Math.max(0, Math.min(STEPS, Math.round((Math.max(-1, Math.min(1, skill)) + 1) / 2 * STEPS)));
  return h("td", { "data-step": step }, skill.toFixed(2));
}

// The best any champion before was on a task, less what the champion is now.
function forgetting(lived, tasks, champion) {
  const now = lived.find((each) => each.version === champion);
  const lost = tasks.map((task) => {
    const before = lived.filter((each) => each.version < (champion ?? 0)).map((each) => each.skills[task]).filter((x) => x !== undefined);
    const skill = now?.skills[task];
    return skill === undefined || !before.length ? null : Math.max(...before) - skill;
  });
  return h("tr.forgot", {}, h("th", { scope: "row" }, "Forgotten"), lost.map((x) => h("td", { "data-bad": x > 0.05 }, x === null ? "" : `${x > 0.005 ? "−" : ""}${Math.max(0, x).toFixed(2)}`)));
}
