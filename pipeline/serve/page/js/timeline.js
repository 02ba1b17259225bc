// A series over time: sensors and score on a canvas; regimes, boundaries and reigns over it, which
// are elements, so that they can be pointed at, moved to by Tab, and read aloud.

import { get } from "./api.js";
import { clock, count, day, figure, fill, full, h, ms, row, span, table, taskName } from "./dom.js";
import { STRIP, lanes, paint, timed } from "./lanes.js";
import { gathered, moved, ticks } from "./scale.js";

//: Boundaries nearer than that, in pixels, are one mark; a name needs so much room in a band.
const APART = 9, ROOM = 26;
//: So near the edge a tick's text would be cut off.
const EDGE = 18;
//: Room on both sides of what is asked for, in its own lengths: it can be moved over without a wait.
const MARGIN = 0.5;
const HUES = 8;

export const hue = (task) => (task ? (task - 1) % HUES : "none");

export function timeline(place, state) {
  let series = null, view = null, whole = null, data = null, drawn = [], asked = 0, waits = null, frame = null;
  const chosen = h("select", { id: "series", onchange: () => choose(JSON.parse(chosen.value)) });
  const range = h("output.range");
  const button = (text, name, does) => h("button.quiet", { type: "button", "aria-label": name, title: name, onclick: does }, text);
  const bands = h("div.bands"), canvas = h("canvas", { "aria-hidden": true }), marks = h("div.marks");
  const field = h("div.field", {}, bands, canvas, marks);
  const names = h("div.names", { "aria-hidden": true }), axis = h("div.axis", { "aria-hidden": true }), reigns = h("div.reigns");
  const why = h("div.why", { hidden: true, "aria-hidden": true });
  const plot = h("div.plot", {
    tabindex: 0, role: "group", "aria-label": "Time line. Arrow keys move, plus and minus zoom, 0 shows all; Tab goes through the boundaries.",
  }, names, field, axis, reigns, why);
  const behind = h("div.behind");
  const chart = h("div.chart", {},
    h("div.bar", {}, h("label.inline", { for: "series" }, "Series"), chosen, range,
      h("span.zoom", {},
        button("‹", "Earlier", () => move({ share: -0.5 })), button("›", "Later", () => move({ share: 0.5 })),
        button("−", "Further", () => move({ factor: 2 })), button("+", "Closer", () => move({ factor: 0.5 })),
        button("All", "All of it", () => all()))),
    plot, behind);
  const x = (at) => (at - view[0]) / (view[1] - view[0]) * field.clientWidth;

  // Data -----------------------------------------------------------------------------------------

  async function refresh() {
    const known = await get(`${state.of}/series`);
    if (!known.length) {
      fill(place, h("p.dim", {}, "Nothing to see yet: the first readings come with the stream's next checkpoint."));
      return;
    }
    if (!chart.isConnected || place.firstChild !== chart) fill(place, chart);
    const before = chosen.value;
    fill(chosen, known.map((each) => h("option", { value: JSON.stringify([each.partition, each.series]) }, `${each.series}`)));
    if (series) chosen.value = before;
    const wasAll = whole && view && view[0] <= whole[0] && view[1] >= whole[1];
    series ??= [known[0].partition, known[0].series];
    if (!view || wasAll) await all();
    else await load();
  }

  async function choose(to) {
    series = to;
    await all();
  }

  const question = async (since, until) => {
    const found = await get(`${state.of}/timeline`, {
      partition: series[0], series: series[1], since, until, points: Math.min(2000, Math.max(200, Math.round(field.clientWidth * (1 + 2 * MARGIN) / 1.5))),
    });
    found.reigns.forEach((each, i) => { each.until ??= found.reigns[i + 1]?.from ?? null; });
    return { ...found, points: timed(found.points) };
  };

  async function all() {
    clearTimeout(waits); // of a move before it, which would ask for its own stretch again
    const mine = ++asked;
    const found = await question(null, null);
    if (mine !== asked) return;
    const { begun, over } = found.points;
    whole = [begun[0], Math.max(over.at(-1), begun[0] + 1000)];
    view = whole;
    data = found;
    draw();
  }

  async function load() {
    const mine = ++asked, [a, b] = moved(view, { factor: 1 + 2 * MARGIN });
    const found = await question(new Date(a).toISOString(), new Date(b).toISOString());
    if (mine !== asked || !found.points.at.length) return;
    data = found;
    draw();
  }

  function move(by) {
    if (!view) return;
    view = moved(view, by, whole);
    draw();
    clearTimeout(waits);
    waits = setTimeout(() => load().catch(() => {}), 120);
  }

  // Drawing --------------------------------------------------------------------------------------

  function draw() {
    frame ??= requestAnimationFrame(() => {
      frame = null;
      if (view && chart.isConnected) now();
    });
  }

  function now() {
    const { points } = data;
    drawn = lanes(points, view);
    const height = STRIP + drawn.reduce((all, lane) => all + lane.height, 0);
    field.style.height = `${height}px`;
    const style = getComputedStyle(chart);
    const colour = (name) => style.getPropertyValue(name).trim();
    paint(canvas, drawn, points.at, x, field.clientWidth, height, {
      line: colour("--line"), sensor: colour("--sensor"), score: colour("--score"),
    });
    drawNames();
    drawBands();
    drawMarks();
    drawReigns();
    fill(axis, ticks(view, field.clientWidth).filter(([at]) => x(at) > EDGE && x(at) < field.clientWidth - EDGE).map(([at, text]) => h("span", { style: { left: `${x(at)}px` } }, text)));
    const sameDay = day(view[0]) === day(view[1]);
    range.textContent = `${day(view[0])}, ${clock(view[0])} – ${sameDay ? "" : `${day(view[1])}, `}${clock(view[1])} (${span(view[1] - view[0])})`;
    drawBehind();
  }

  function drawNames() {
    fill(names, drawn.map((lane) => h("div", { style: { top: `${lane.top}px`, height: `${lane.height}px` } },
      h("span", {}, lane.name), h("small", {}, `${figure(lane.least)} – ${figure(lane.most)}`))));
  }

  function drawBands() {
    const width = field.clientWidth;
    fill(bands, data.bands.map((band) => {
      const left = Math.max(band.from ? x(ms(band.from)) : 0, 0), right = Math.min(band.until ? x(ms(band.until)) : width, width);
      if (right <= 0 || left >= width || right - left < 0.5) return null;
      const text = taskName(band), room = right - left;
      return h("div.band", {
        "data-hue": hue(band.task), "data-kind": band.task_kind, "data-segment": band.segment,
        title: `${text}${band.task_kind && band.task_kind !== "normal" ? `, ${band.task_kind}` : ""}${band.recurrence ? ", again" : ""}`,
        style: { left: `${left}px`, width: `${room}px` },
      }, h("span", {}, room > 90 ? text : room > ROOM && band.task ? String(band.task_name && room > 60 ? band.task_name : band.task) : ""));
    }));
  }

  function drawMarks() {
    const width = field.clientWidth, at = (each) => x(ms(each.boundary_at));
    const shown = data.boundaries.filter((each) => at(each) >= 0 && at(each) <= width);
    fill(marks, gathered(shown, at, APART).map((some) => {
      const left = some.reduce((all, each) => all + at(each), 0) / some.length;
      const head = some.length === 1 ? full(ms(some[0].boundary_at)) : `${count(some.length, "boundary", "boundaries")} from ${full(ms(some[0].boundary_at))}`;
      const text = some.length === 1 ? some[0].sentence : "Closer together than the eye can tell: zoom in to tell them apart.";
      const show = () => explain(head, text, left);
      return h("button.mark", {
        type: "button", "aria-label": `Boundary, ${head}: ${text}`, "data-segment": some[0].segment, "data-at": some[0].boundary_at,
        "data-key": `mark-${some[0].segment}`, "data-many": some.length > 1, style: { left: `${left}px` },
        onmouseenter: show, onfocus: show, onmouseleave: hide, onblur: hide,
        onclick: () => (some.length > 1 ? closer(some) : show()),
      });
    }));
  }

  function closer(some) {
    const [a, b] = [ms(some[0].boundary_at), ms(some.at(-1).boundary_at)];
    const room = Math.max(b - a, (view[1] - view[0]) / 20);
    view = moved([a - room, b + room], {}, whole);
    move({});
  }

  function explain(head, text, left) {
    fill(why, h("strong", {}, head), h("p", {}, text));
    why.hidden = false;
    const room = plot.clientWidth, wide = why.offsetWidth, from = field.offsetLeft + left;
    const fits = from + 16 + wide <= room;
    why.style.left = `${fits ? from + 16 : Math.max(0, from - 16 - wide)}px`;
  }

  function hide() {
    why.hidden = true;
  }

  function drawReigns() {
    const width = field.clientWidth;
    const shown = data.reigns.map((each) => [Math.max(0, x(ms(each.from))), Math.min(width, each.until ? x(ms(each.until)) : width), each])
      .filter(([left, right]) => right > left);
    reigns.hidden = !shown.length;
    fill(reigns, shown.map(([left, right, each]) => h("div", {
      title: `version ${each.version} scored from ${full(ms(each.from))} on`, style: { left: `${left}px`, width: `${right - left}px` },
    }, right - left > ROOM ? `v${each.version}` : "")));
  }

  // The same as words, behind the drawing.
  function drawBehind() {
    const open = [...behind.querySelectorAll("details")].map((each) => each.open);
    const [a, b] = view;
    const shown = data.boundaries.filter((each) => ms(each.boundary_at) >= a && ms(each.boundary_at) <= b);
    fill(behind,
      h("details", { open: open[0] }, h("summary", {}, `${count(shown.length, "boundary", "boundaries")} as a table${data.more ? " (the first ones: zoom in)" : ""}`),
        table("Boundaries in view", ["When", "What changed", "Test", "Regime"], shown.map((each) => row([
          h("time", { datetime: each.boundary_at }, full(ms(each.boundary_at))), each.sentence,
          `${each.signal} ${figure(each.statistic)} > ${figure(each.threshold)}, ${each.detectors.join(" and ")}`,
          h("span", {}, h("i.dot", { "data-hue": hue(each.task) }), taskName(each), each.recurrence ? " again" : ""),
        ])))),
      h("details", { open: open[1] }, h("summary", {}, `${count(state.channels.length, "sensor")} as a table`),
        table("Sensors in view", ["Sensor", "Lowest", "Highest"], drawn.map((lane) => row([h("th", { scope: "row" }, lane.name), figure(lane.least), figure(lane.most)])))));
  }

  // Hands ----------------------------------------------------------------------------------------

  const pointers = new Map();
  const timeAt = (clientX) => view[0] + (clientX - field.getBoundingClientRect().left) / field.clientWidth * (view[1] - view[0]);

  plot.addEventListener("wheel", (event) => {
    if (!view) return;
    const sideways = Math.abs(event.deltaX) > Math.abs(event.deltaY);
    if (!event.ctrlKey && !event.metaKey && !sideways) return; // the page scrolls
    event.preventDefault();
    if (sideways) move({ share: event.deltaX / field.clientWidth });
    else move({ factor: 1.003 ** event.deltaY, at: timeAt(event.clientX) });
  }, { passive: false });
  field.addEventListener("pointerdown", (event) => {
    if (event.target.closest(".mark") || event.button) return;
    field.setPointerCapture(event.pointerId);
    pointers.set(event.pointerId, event.clientX);
  });
  field.addEventListener("pointermove", (event) => {
    if (!pointers.has(event.pointerId)) return;
    const before = [...pointers.values()];
    pointers.set(event.pointerId, event.clientX);
    const after = [...pointers.values()];
    if (after.length === 1) move({ share: (before[0] - after[0]) / field.clientWidth });
    else move({ factor: Math.abs(before[0] - before[1]) / Math.max(8, Math.abs(after[0] - after[1])), at: timeAt((after[0] + after[1]) / 2) });
  });
  for (const end of ["pointerup", "pointercancel"]) field.addEventListener(end, (event) => pointers.delete(event.pointerId));
  field.addEventListener("dblclick", (event) => move({ factor: 0.4, at: timeAt(event.clientX) }));

  const KEYS = {
    ArrowLeft: { share: -0.15 }, ArrowRight: { share: 0.15 }, "+": { factor: 0.6 }, "=": { factor: 0.6 }, "-": { factor: 1 / 0.6 }, "−": { factor: 1 / 0.6 },
  };
  plot.addEventListener("keydown", (event) => {
    if (event.key === "Escape") return hide();
    if (event.key === "0") all();
    else if (KEYS[event.key]) move(KEYS[event.key]);
    else return undefined;
    return event.preventDefault();
  });

  const seen = new ResizeObserver(draw);
  seen.observe(field);
  addEventListener("dressed", draw);
  return {
    refresh,
    leave() {
      seen.disconnect();
      removeEventListener("dressed", draw);
      clearTimeout(waits);
    },
  };
}
