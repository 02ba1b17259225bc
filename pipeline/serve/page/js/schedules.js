// What happens by the clock, and when next.

import { get } from "./api.js";
import { badge, fill, h, row, table, when } from "./dom.js";

export async function open(place) {
  const list = h("div.body");
  async function draw() {
    const all = await get("schedules");
    fill(list, all.length
      ? table("Schedules", ["Name", "What", "When", "Next", "Last"], all.map((each) => row([
        h("th", { scope: "row" }, each.name), each.kind, h("code", {}, each.when),
        each.paused ? badge("paused") : h("ol.times", {}, each.next.map((at) => h("li", {}, when(at)))),
        each.last ? [when(each.last.at), ` ${each.last.outcome ?? ""}`] : h("span.dim", {}, "not yet"),
      ])))
      : h("p.dim", {}, "Nothing happens by the clock."));
  }
  place.append(h("h1", { tabindex: -1 }, "Schedules"), list);
  await draw();
  return { changed: () => draw().catch(() => {}) };
}
