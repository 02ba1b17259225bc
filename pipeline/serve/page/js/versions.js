// Every version with its fate, its parent by a line, its reign by a bar, and the card behind it.

import { blob, get } from "./api.js";
import { ask, decide, may } from "./dialogs.js";
import { badge, figure, fill, full, h, ms, row, s, span, table, when } from "./dom.js";

//: Of the lines on the left, in pixels: from one to the next, and how high a row is.
const STEP = 14, HIGH = 48;
//: Versions that are shown at first, beside those that were ever champion.
const NEWEST = 6;

export function versions(place, state) {
  const { versions: all, reigns, waiting } = state;
  if (!all.length) {
    fill(place, h("p.dim", {}, "None yet."));
    return;
  }
  const lived = new Set(reigns.map((each) => each.version));
  const shown = state.showAll ? all : all.filter((each, i) => i < NEWEST || lived.has(each.number));
  const rails = rail(shown);
  const width = STEP * Math.max(...rails.map((each) => each.lanes)) + 4;
  const begin = Math.min(...reigns.map((each) => ms(each.live_from)));
  fill(place,
    waiting.map((each) => waits(each, state)),
    table("Versions", ["Lineage", "Version", "Why", "The gate's word", "Reign"], shown.map((version, i) => row([
      h("td.rail", {}, drawing(rails[i], version, width), h("span.aside", {}, version.parent ? `from version ${version.parent}` : "the first of its line")),
      h("th.number", { scope: "row" },
        h("button.link", { type: "button", "data-key": `version-${version.number}`, "aria-label": `Version ${version.number}: more`, onclick: () => card(version, state) }, String(version.number)),
        " ", badge(version.status)),
      h("td", {}, version.reason, h("br"), h("small", {}, when(version.created))),
      h("td.gate", {}, version.decision),
      h("td.reign", {}, reigned(version, reigns, begin)),
    ], { "data-version": version.number, "data-status": version.status })), { class: "stack versions" }),
    shown.length < all.length && h("button.plain", {
      type: "button", "data-key": "all-versions",
      onclick() { state.showAll = true; versions(place, state); },
    }, `Show all ${all.length}`));
}

// A version that waits for a word, where it cannot be overlooked, and what agreed limits it passes.
function waits({ version, because, envelope, outside }, state) {
  return h("div.waits", { role: "group", "aria-label": `Version ${version} waits` },
    h("p", {}, h("strong", {}, `Version ${version} waits for a word.`), ` ${because}`),
    h("p", {}, `It is outside of envelope ${envelope}:`),
    h("ul", {}, outside.map((each) => h("li", {}, each))),
    may(state.who, "approver") && h("div.acts", {},
      doing(state, version, "approve", "Approve", "strong", "It becomes champion."),
      doing(state, version, "refuse", "Refuse", "danger", "It never becomes champion by itself.")));
}

function doing(state, version, what, verb, look, text) {
  return h(`button.${look}`, {
    type: "button", "data-key": `${what}-${version}`,
    async onclick() {
      const answer = await decide({ title: `${verb} version ${version}`, text, verb, look, path: `${state.of}/versions/${version}/${what}` });
      if (answer) await state.again();
    },
  }, verb);
}

// Lines ----------------------------------------------------------------------------------------

// For each row, newest first: the lane of its dot, the lanes that pass, those that end in it, and the
// one that it goes down in. Lane 0 is that of the champion and its forebears; children of one parent
// share a lane.
function rail(all) {
  const numbered = new Map(all.map((version) => [version.number, version]));
  const main = new Set();
  for (let each = all.find((version) => version.status === "champion"); each; each = numbered.get(each.parent)) main.add(each.number);
  const lanes = [null]; // what each lane goes down to
  return all.map(({ number, parent }) => {
    const joins = lanes.flatMap((to, i) => (to === number ? [i] : []));
    const above = lanes.map((to) => to !== null);
    const free = lanes.indexOf(null, 1);
    const own = joins.shift() ?? (main.has(number) ? 0 : free < 0 ? lanes.length : free);
    joins.forEach((i) => { lanes[i] = null; });
    lanes[own] = null;
    let down = null;
    if (parent) {
      const shared = lanes.indexOf(parent);
      down = shared >= 0 ? shared : main.has(parent) && lanes[0] === null ? 0 : own;
      lanes[down] = parent;
    }
    return { own, joins, above, down, below: lanes.map((to) => to !== null), lanes: lanes.length };
  });
}

function drawing({ own, joins, above, down, below }, version, width) {
  const at = (lane) => STEP * (lane + 0.5), middle = HIGH / 2, lines = [];
  const bent = (from, top, to, end) => `M${at(from)} ${top}C${at(from)} ${(top + end) / 2} ${at(to)} ${(top + end) / 2} ${at(to)} ${end}`;
  for (let lane = 0; lane < Math.max(above.length, below.length); lane += 1) {
    if (joins.includes(lane)) lines.push(bent(lane, 0, own, middle));
    else if (above[lane]) lines.push(`M${at(lane)} 0V${middle}`);
    if (below[lane] && (lane !== down || lane === own || above[lane])) lines.push(`M${at(lane)} ${middle}V${HIGH}`);
  }
  if (down !== null && down !== own) lines.push(bent(own, middle, down, HIGH));
  return s("svg", { width, height: HIGH, viewBox: `0 0 ${width} ${HIGH}`, "aria-hidden": true },
    s("path", { d: lines.join("") }),
    s("circle", { cx: at(own), cy: middle, r: version.status === "champion" ? 5.5 : 4, "data-status": version.status }));
}

function reigned(version, reigns, begin) {
  const mine = reigns.filter((each) => each.version === version.number);
  if (!mine.length) return h("span.dim", {}, "never");
  const now = Date.now(), share = (at) => `${(at - begin) / Math.max(1, now - begin) * 100}%`;
  return [
    mine[0].live_until ? h("span", { title: full(ms(mine[0].live_from)) }, span(ms(mine[0].live_until) - ms(mine[0].live_from))) : h("span", {}, "since ", when(mine[0].live_from)),
    h("div.track", { "aria-hidden": true }, mine.map((each) => {
      const until = each.live_until ? ms(each.live_until) : now;
      return h("i", { style: { left: share(ms(each.live_from)), width: share(begin + until - ms(each.live_from)) } });
    })),
  ];
}

// The card -------------------------------------------------------------------------------------

async function card(version, state) {
  const { number } = version;
  const found = await get(`${state.of}/audit/card/${number}`);
  const can = may(state.who, "approver") && version.status !== "champion";
  const chosen = await ask({
    title: `Version ${number}`,
    body: [
      h("p", {}, badge(found.status), " ", found.decision),
      h("h3", {}, "Why it was trained"),
      h("ul", {}, found.reasons.map((each) => h("li", {}, `${each.trigger}, asked for by ${each.actor}${each.note ? `: ${each.note}` : ""}`, each.boundary && h("p.dim", {}, each.boundary)))),
      found.skills.length ? [h("h3", {}, "How good it is"), table("Skill on each regime", ["Regime", "skill", "parent", "change"], found.skills.map((each) => row([
        h("th", { scope: "row" }, `task ${each.task}`), figure(each.skill), figure(each.parent_skill),
        each.parent_skill === null ? "–" : `${each.skill >= each.parent_skill ? "+" : "−"}${figure(Math.abs(each.skill - each.parent_skill))}`,
      ])))] : [],
      h("h3", {}, "Where it comes from"),
      h("p", {}, found.parent ? `Version ${found.parent}, by ${found.strategy}, ` : `Nothing: the first of its line, by ${found.strategy}, `, when(found.made_at)),
      found.live.map((each) => h("p", {}, `Champion from ${full(ms(each.since))} ${each.until ? `until ${full(ms(each.until))}` : "on"}, by ${each.by}: ${each.because}`)),
      h("p.hash", {}, found.sha256),
      h("p", {}, h("button.link", { type: "button", onclick: () => download(state, number) }, "Weights as safetensors")),
    ].flat(3),
    answers: [["Close", null], ...(can ? [["Promote", "promote", "strong"]] : [])],
  });
  if (chosen !== "promote") return;
  const answer = await decide({
    title: `Promote version ${number}`, verb: "Promote", path: `${state.of}/versions/${number}/promote`,
    text: `It becomes champion instead of version ${state.stream.champion ?? "none"}, whatever the gate said: “${version.decision}”.`,
  });
  if (answer) await state.again();
}

async function download(state, number) {
  const url = URL.createObjectURL(await blob(`${state.of}/versions/${number}/weights`));
  h("a", { href: url, download: `version-${number}.safetensors` }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}
