// What happens by the clock, and when next.

import { get, path } from "./api.js";
import { decide, may, me } from "./dialogs.js";
import { badge, fill, h, row, table, when } from "./dom.js";

//: What a schedule is told: path, the button, and what comes of it.
const ACTS = {
  "run-now": ["Run now", "Once, without waiting for the clock; its next times stay as they are."],
  pause: ["Pause", "It does nothing until somebody resumes it."],
  resume: ["Resume", "It counts from now on; what fell into the pause is not made up for."],
};

export async function open(place) {
  const list = h("div.body"), who = await me();
  async function draw() {
    const { schedules: all, held } = await get("schedules");
    fill(list, all.length
      ? table("Schedules", ["Name", "What", "When", "Next", "Last", ...(may(who, "operator") ? [h("span.aside", {}, "Steer")] : [])], all.map((each) => row([
        h("th", { scope: "row" }, each.name), each.kind, timed(each),
        next(each), last(each),
        ...(may(who, "operator") ? [h("div.acts", {}, steers(each, draw))] : []),
      ])))
      : h("p.dim", {}, "Nothing happens by the clock."),
    held.length && [h("h2", {}, "Held back"), table("Requests that a rule holds back", ["Stream", "Request", "Because"], held.map((each) => row([
      each.stream, `${each.request}, ${each.reason}`, each.because,
    ])))]);
  }
  place.append(h("h1", { tabindex: -1 }, "Schedules"), list);
  await draw();
  return { changed: () => draw().catch(() => {}) };
}

const timed = (each) => h("code", {}, each.every_s ? `every ${each.every_s} s` : `${each.cron} ${each.timezone}`);

const next = ({ state, paused, next: times }) => (paused
  ? [badge("paused"), h("p.dim", {}, `by ${paused.by}, `, when(paused.since), `: ${paused.because}`)]
  : times.length ? h("ol.times", {}, times.map((at) => h("li", {}, when(at)))) : h("span.dim", {}, state));

function last({ runs: [run] }) {
  if (!run) return h("span.dim", {}, "not yet");
  return [when(run.due), ` ${run.outcome ?? (run.started ? "under way" : "waits for a scheduler")}`,
    run.actor && run.reason ? h("p.dim", {}, `asked for by ${run.actor}: ${run.reason}`) : null];
}

function steers(each, draw) {
  if (each.state === "gone") return null;
  return ["run-now", each.paused ? "resume" : "pause"].map((what) => h("button.plain", {
    type: "button", "data-key": `${what}-${each.name}`, "aria-label": `${ACTS[what][0]}: ${each.name}`,
    async onclick() {
      const [verb, text] = ACTS[what];
      if (await decide({ title: `${verb}: ${each.name}`, verb, text, path: path("schedules", each.name, what) })) await draw();
    },
  }, ACTS[what][0]));
}
