// A series over time: sensors and score on a canvas; regimes, boundaries and reigns over it, which
// are elements, so that they can be pointed at, moved to by Tab, and read aloud.

import { get } from "./api.js";
import { clock, count, day, figure, fill, full, h, ms, row, span, table, taskName } from "./dom.js";
import { STRIP, lanes, paint, timed } from "./lanes.js";
import { gathered, moved, ticks } from "./scale.js";

//: Boundaries nearer than that, in pixels, are one mark; a name needs so much room in a band.
const APART = 12, ROOM = 26;
//: So near the edge a tick's text would be cut off.
const EDGE = 18;
//: Room on both sides of what is asked for, in its own lengths: it can be moved over without a wait.
const MARGIN = 0.5;
//: A page is no wider, and a band or a reign that is narrower is not seen, in pixels.
const WIDEST = 1100, NARROW = 2;
//: A hand that moved less, in pixels, only clicked.
const STILL = 4;
const HUES = 8;

const dyes = (style) => Object.fromEntries(["line", "sensor", "score"].map((name) => [name, style.getPropertyValue(`--${name}`).trim()]));

export const hue = (task) => (task ? (task - 1) % HUES : "none");

export function timeline(place, state) {
  let series = null, view = null, whole = null, data = null, drawn = [], width = 0, colours = null, asked = 0, waits = null, rests = null, frame = null;
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
  const x = (at) => (at - view[0]) / (view[1] - view[0]) * width;

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
    const wide = field.clientWidth || Math.min(innerWidth, WIDEST); // not yet in the page
    const found = await get(`${state.of}/timeline`, {
      partition: series[0], series: series[1], since, until, points: Math.min(2000, Math.max(200, Math.round(wide * (1 + 2 * MARGIN) / 1.5))),
    });
    const between = ({ from, until: to }) => ({ begun: ms(from), over: ms(to) });
    return {
      ...found,
      points: timed(found.points),
      marks: found.boundaries.length
        ? found.boundaries.map((each) => { const at = ms(each.boundary_at); return { at, begun: at, over: at, count: 1, boundary: each }; })
        : found.clusters.map((each) => ({ ...each, ...between(each), at: (ms(each.from) + ms(each.until)) / 2 })),
      bands: found.bands.map((each) => ({ ...each, ...between(each) })),
      reigns: found.reigns.map((each, i) => ({ ...each, ...between({ ...each, until: found.reigns[i + 1]?.from }) })),
    };
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
    width = field.clientWidth; // before anything is changed: to ask again would lay all out again
    colours ??= dyes(getComputedStyle(chart));
    drawn = lanes(points, view);
    const height = STRIP + drawn.reduce((all, lane) => all + lane.height, 0);
    field.style.height = `${height}px`;
    paint(canvas, drawn, points.at, x, width, height, colours);
    drawNames();
    drawBands();
    drawMarks();
    drawReigns();
    fill(axis, ticks(view, width).filter(([at]) => x(at) > EDGE && x(at) < width - EDGE).map(([at, text]) => h("span", { style: { left: `${x(at)}px` } }, text)));
    const sameDay = day(view[0]) === day(view[1]);
    range.textContent = `${day(view[0])}, ${clock(view[0])} – ${sameDay ? "" : `${day(view[1])}, `}${clock(view[1])} (${span(view[1] - view[0])})`;
    clearTimeout(rests);
    rests = setTimeout(drawBehind, 150);
  }

  function drawNames() {
    fill(names, drawn.map((lane) => h("div", { style: { top: `${lane.top}px`, height: `${lane.height}px` } },
      h("span", {}, lane.name), h("small", {}, `${figure(lane.least)} – ${figure(lane.most)}`))));
  }

  function drawBands() {
    fill(bands, data.bands.map((band) => {
      const left = Math.max(band.begun === null ? 0 : x(band.begun), 0), right = Math.min(band.over === null ? width : x(band.over), width);
      if (right - left < NARROW) return null;
      const text = taskName(band), room = right - left;
      return h("div.band", {
        "data-hue": hue(band.task), "data-kind": band.task_kind, "data-segment": band.segment,
        title: `${text}${band.task_kind && band.task_kind !== "normal" ? `, ${band.task_kind}` : ""}${band.recurrence ? ", again" : ""}`,
        style: { left: `${left}px`, width: `${room}px` },
      }, h("span", {}, room > 90 ? text : room > ROOM && band.task ? String(band.task_name && room > 60 ? band.task_name : band.task) : ""));
    }));
  }

  function drawMarks() {
    const at = (each) => x(each.at);
    fill(marks, gathered(inView(), at, APART).map((some) => {
      const { begun, boundary, segment = boundary.segment } = some[0], many = sum(some);
      const left = some.reduce((all, each) => all + at(each), 0) / some.length;
      const head = many === 1 ? full(begun) : `${count(many, "boundary", "boundaries")} from ${full(begun)}`;
      const text = many > 1 ? "Closer together than the eye can tell: zoom in to tell them apart." : boundary?.sentence ?? "Zoom in to read why.";
      const show = () => pointers.size || explain(head, text, left);
      return h("button.mark", {
        type: "button", "aria-label": `Boundary, ${head}: ${text}`, "data-segment": segment, "data-at": new Date(begun).toISOString(),
        "data-key": `mark-${segment}`, "data-many": many > 1, style: { left: `${left}px` },
        onmouseenter: show, onfocus: show, onmouseleave: hide, onblur: hide,
        onclick: () => (boundary && many === 1 ? show() : closer(begun, some.at(-1).over)),
      });
    }));
  }

  const inView = () => data.marks.filter((each) => each.at >= view[0] && each.at <= view[1]);
  const sum = (some) => some.reduce((all, each) => all + each.count, 0);

  function closer(a, b) {
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
    const shown = data.reigns.map((each) => [Math.max(0, x(each.begun)), Math.min(width, each.over === null ? width : x(each.over)), each])
      .filter(([left, right]) => right - left >= NARROW);
    reigns.hidden = !shown.length;
    fill(reigns, shown.map(([left, right, each]) => h("div", {
      title: `version ${each.version} scored from ${full(each.begun)} on`, style: { left: `${left}px`, width: `${right - left}px` },
    }, right - left > ROOM ? `v${each.version}` : "")));
  }

  // The same as words, behind the drawing: once it rests, and of those that are opened.
  const opening = () => h("details", { ontoggle: drawBehind }, h("summary"), h("div"));
  const words = [
    [opening(), () => count(sum(inView()), "boundary", "boundaries"), () => (data.more ? h("p.dim", {}, "Zoom in to read them.") : table("Boundaries in view", ["When", "What changed", "Test", "Regime"], inView().map(({ at, boundary: each }) => row([
      h("time", { datetime: each.boundary_at }, full(at)), each.sentence,
      `${each.signal} ${figure(each.statistic)} > ${figure(each.threshold)}, ${each.detectors.join(" and ")}`,
      h("span", {}, h("i.dot", { "data-hue": hue(each.task) }), taskName(each), each.recurrence ? " again" : ""),
    ]))))],
    [opening(), () => count(state.channels.length, "sensor"), () => table("Sensors in view", ["Sensor", "Lowest", "Highest"], drawn.map((lane) => row([
      h("th", { scope: "row" }, lane.name), figure(lane.least), figure(lane.most),
    ])))],
  ];
  behind.append(...words.map(([node]) => node));

  function drawBehind() {
    for (const [node, name, content] of words) {
      node.firstChild.textContent = `${name()} as a table`;
      fill(node.lastChild, node.open && content());
    }
  }

  // Hands ----------------------------------------------------------------------------------------

  const pointers = new Map(); // where each is, and where it came down
  let dragged = false;
  const timeAt = (clientX) => view[0] + (clientX - field.getBoundingClientRect().left) / field.clientWidth * (view[1] - view[0]);

  plot.addEventListener("wheel", (event) => {
    if (!view) return;
    const sideways = Math.abs(event.deltaX) > Math.abs(event.deltaY);
    if (!event.ctrlKey && !event.metaKey && !sideways) return; // the page scrolls
    event.preventDefault();
    if (sideways) move({ share: event.deltaX / field.clientWidth });
    else move({ factor: 1.003 ** event.deltaY, at: timeAt(event.clientX) });
  }, { passive: false });
  // A hand may come down on a mark as well: it is a click until it moves.
  field.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    dragged = false;
    pointers.set(event.pointerId, { at: event.clientX, from: event.clientX });
  });
  field.addEventListener("pointermove", (event) => {
    const mine = pointers.get(event.pointerId);
    if (!mine || !event.buttons) return;
    if (!dragged && Math.abs(event.clientX - mine.from) < STILL) return;
    if (!dragged) field.setPointerCapture(event.pointerId);
    dragged = true;
    const before = [...pointers.values()].map(({ at }) => at);
    mine.at = event.clientX;
    const after = [...pointers.values()].map(({ at }) => at);
    if (after.length === 1) move({ share: (before[0] - after[0]) / field.clientWidth });
    else move({ factor: Math.abs(before[0] - before[1]) / Math.max(8, Math.abs(after[0] - after[1])), at: timeAt((after[0] + after[1]) / 2) });
  });
  for (const end of ["pointerup", "pointercancel"]) addEventListener(end, lifted);
  function lifted(event) { pointers.delete(event.pointerId); }
  field.addEventListener("click", (event) => { if (dragged) event.stopPropagation(); }, { capture: true });
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
  const dye = () => { colours = null; draw(); };
  addEventListener("dressed", dye);
  return {
    refresh,
    leave() {
      seen.disconnect();
      removeEventListener("dressed", dye);
      for (const end of ["pointerup", "pointercancel"]) removeEventListener(end, lifted);
      clearTimeout(waits);
      clearTimeout(rests);
    },
  };
}
