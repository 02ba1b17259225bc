// One stream: what it saw, which versions came of it, what they keep, and what waits.

import { get, newest, path } from "./api.js";
import { decide, may, me } from "./dialogs.js";
import { count, fill, h, when } from "./dom.js";
import { heatMap } from "./matrix.js";
import { queue } from "./queue.js";
import { regimes } from "./regimes.js";
import { timeline } from "./timeline.js";
import { versions } from "./versions.js";

// What is looked at again when the ledger grows by an entry of that kind; others change nothing.
const TOUCHED = {
  boundary: ["timeline"], transition_over: ["timeline"], task_named: ["timeline", "regimes"],
  task_marked: ["timeline", "regimes", "queue"],
};
const EVERYTHING = ["timeline", "versions", "keeps", "regimes", "queue"];
//: Versions that are shown, the newest ones.
const MOST = 200;

export async function open(place, name) {
  const of = path("streams", name);
  const [stream, who] = await Promise.all([get(of), me()]);
  const state = { name, of, stream, who, channels: stream.channels };
  const head = h("header.about");
  const part = (id, title, hint) => {
    const body = h("div.body");
    return { node: h("section", { id, "aria-labelledby": `${id}-title` },
      h("h2", { id: `${id}-title`, tabindex: -1 }, title), hint && h("p.hint", {}, hint), body), body };
  };
  const parts = {
    timeline: part("timeline", "Time line", "Each line across is a boundary. Point at one, or move to it with Tab, to read why it is there."),
    versions: part("versions", "Versions", "The newest first, each beneath what came of it. A line joins a version to its parent."),
    keeps: part("keeps", "What it keeps", "R: the skill of each version on what was held out of each regime; 1 is perfect, 0 no better than the mean."),
    regimes: part("regimes", "Regimes"),
    queue: part("queue", "Queue"),
  };
  place.append(head, ...Object.values(parts).map((each) => each.node));
  const drawn = timeline(parts.timeline.body, state);
  const draw = {
    timeline: drawn.refresh,
    async versions() {
      const [all, reigns, requests, waiting, now] = await Promise.all([
        newest(`${of}/versions`, MOST), newest(`${of}/promotions`, MOST), newest(`${of}/requests`, 100), get(`${of}/waiting`), get(of),
      ]);
      Object.assign(state, { versions: all, reigns, requests, waiting, stream: now });
      about(head, state);
      versions(parts.versions.body, state);
      queue(parts.queue.body, state);
    },
    async keeps() {
      heatMap(parts.keeps.body, await get(`${of}/matrix`, { newest: MOST }), state);
    },
    async regimes() {
      state.tasks = (await newest(`${of}/tasks`, MOST)).reverse();
      regimes(parts.regimes.body, state);
      if (state.versions) about(head, state);
    },
  };
  draw.queue = draw.versions;
  state.again = () => Promise.all([draw.versions(), draw.keeps(), draw.regimes(), draw.timeline()]);
  await state.again();
  return {
    leave: drawn.leave,
    changed(entries) {
      const mine = entries.filter((each) => each.stream === name);
      const touched = new Set(mine.flatMap((each) => TOUCHED[each.kind] ?? EVERYTHING).map((id) => draw[id]));
      touched.forEach((each) => each().catch(() => {}));
    },
  };
}

function about(head, state) {
  const { stream, versions: all, reigns, requests, who, tasks = [] } = state;
  const open = requests.filter((each) => ["pending", "claimed"].includes(each.status)).length;
  const reign = reigns.find((each) => each.live_until === null);
  const paused = Boolean(stream.paused ?? stream.pause);
  fill(head,
    h("h1", { tabindex: -1 }, stream.name),
    h("p.lead", {}, reign
      ? [h("strong", {}, `Version ${reign.version}`), " is champion since ", when(reign.live_from), ". "]
      : "No champion yet: the first comes once the first readings show what normal looks like. ",
    `${count(stream.channels.length, "sensor")}, ${count(tasks.length, "regime")}, ${count(all[0]?.number ?? 0, "version")}. `,
    open ? `${count(open, "consolidation")} in the queue.` : "Nothing waits in the queue.",
    paused ? " Training is paused." : ""),
    h("div.acts", {},
      act(state, "operator", "Retrain", { path: "retrain", text: "Ask for a consolidation of what was kept." }),
      act(state, "operator", paused ? "Resume" : "Pause", paused
        ? { path: "resume", text: "Train again, and take up what was asked for meanwhile." }
        : { path: "pause", text: "Train nothing until somebody resumes. Scoring goes on." }),
      act(state, "approver", "Roll back", {
        path: "rollback", look: "danger", text: `Make the champion before version ${stream.champion ?? "?"} champion again.`, off: reigns.length < 2,
      })));
}

// A button that asks for the reason and then does it.
export function act(state, role, verb, { path: where, look, off, ...more }) {
  if (!may(state.who, role)) return null;
  return h(`button.${look ?? "plain"}`, {
    type: "button", disabled: off, "data-key": `act-${where}`,
    async onclick() {
      if (await decide({ title: verb, path: `${state.of}/${where}`, look: look ?? "strong", ...more })) await state.again();
    },
  }, verb);
}
