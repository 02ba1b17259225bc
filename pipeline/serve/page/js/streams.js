// Every stream at a glance.

import { get } from "./api.js";
import { count, fill, h, link, span, when } from "./dom.js";

const figures = (standing, stream, metric) => standing.filter((s) => s.metric === metric && s.labels.stream === stream);
const sum = (samples) => samples.reduce((all, each) => all + each.value, 0);

export async function open(place) {
  const list = h("div.cards");
  async function draw() {
    const [streams, standing] = await Promise.all([get("streams"), get("standing")]);
    fill(list, streams.length
      ? streams.map((each) => card(each, standing))
      : h("p.dim", {}, "No stream yet: tidemark stream makes one with its first reading."));
  }
  place.append(h("h1", { tabindex: -1 }, "Streams"), list);
  await draw();
  const timer = setInterval(() => draw().catch(() => {}), 15000);
  return { leave: () => clearInterval(timer), changed: () => draw().catch(() => {}) };
}

function card(stream, standing) {
  const of = (metric) => figures(standing, stream.name, metric);
  const waiting = sum(of("stream_versions").filter((s) => s.labels.status === "waiting"));
  const open = sum(of("stream_requests").filter((s) => ["pending", "claimed"].includes(s.labels.status)));
  const ages = of("checkpoint_age_seconds").map((s) => s.value);
  const since = of("champion_timestamp_seconds")[0]?.value;
  return h("article.card", {},
    h("h2", {}, h("a", { href: link("stream", stream.name), "data-key": stream.name }, stream.name)),
    h("p.lead", {}, stream.champion
      ? [`Version ${stream.champion} is champion, since `, when(new Date(since * 1000).toISOString())]
      : "No champion yet"),
    h("dl.facts", {},
      fact("readings", sum(of("stream_next_offset")).toLocaleString()),
      fact("sensors", stream.channels.length),
      fact("boundaries", sum(of("stream_boundaries")).toLocaleString()),
      fact("regimes", sum(of("stream_tasks")).toLocaleString()),
      fact("versions", sum(of("stream_versions")).toLocaleString()),
      fact("last checkpoint", ages.length ? `${span(Math.min(...ages) * 1000)} ago` : "never")),
    waiting || open
      ? h("p.note", {}, [waiting && `${count(waiting, "version waits", "versions wait")} for a word`, open && `${count(open, "consolidation")} in the queue`].filter(Boolean).join(", "))
      : null);
}

const fact = (name, value) => h("div", {}, h("dt", {}, name), h("dd", {}, String(value)));
