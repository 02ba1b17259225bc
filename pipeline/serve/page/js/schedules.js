// What happens by the clock, and when next.

import { get } from "./api.js";
import { badge, fill, h, row, table, when } from "./dom.js";

export async function open(place) {
  const list = h("div.body");
  async function draw() {
    const { schedules: all, held } = await get("schedules");
    fill(list, all.length
      ? table("Schedules", ["Name", "What", "When", "Next", "Last"], all.map((each) => row([
        h("th", { scope: "row" }, each.name), each.kind, timed(each),
        each.paused ? badge("paused") : h("ol.times", {}, each.next.map((at) => h("li", {}, when(at)))),
        each.runs.length ? [when(each.runs[0].due), ` ${each.runs[0].outcome ?? ""}`] : h("span.dim", {}, "not yet"),
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
