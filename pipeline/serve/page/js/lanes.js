// Columns of readings in, lanes on a canvas out: the reach of each bucket, and its mean.

import { ms } from "./dom.js";

//: Heights in CSS pixels: of the strip with the regimes' names, the score's lane, and a sensor's.
export const STRIP = 26, SCORE = 56, LANE = 38;
const PAD = 5;

// Points of the time line with their times as numbers.
export function timed(points) {
  const begun = points.from.map(ms), over = points.until.map(ms);
  return { ...points, begun, over, at: begun.map((from, i) => (from + over[i]) / 2) };
}

// The lanes that points fill: [{name, top, height, low, high, mean, least, most}].
export function lanes({ at, sensors, score }, [a, b]) {
  const first = Math.max(0, at.findIndex((time) => time >= a) - 1);
  const past = at.findIndex((time) => time > b);
  const seen = [first, past < 0 ? at.length : past + 1];
  let top = STRIP;
  const lane = (name, height, columns) => {
    const found = { name, top, height, ...columns, ...reach(columns, seen) };
    top += height;
    return found;
  };
  const all = Object.entries(sensors).map(([name, columns]) => [name, LANE, columns]);
  if (score?.mean.some((x) => x !== null)) all.unshift(["score", SCORE, score]);
  return all.map((each) => lane(...each));
}

function reach({ low, high }, [first, past]) {
  let least = Infinity, most = -Infinity;
  for (let i = first; i < past; i += 1) {
    if (low[i] !== null && low[i] < least) least = low[i];
    if (high[i] !== null && high[i] > most) most = high[i];
  }
  return least <= most ? { least, most } : { least: 0, most: 0 };
}

export function paint(canvas, drawn, times, x, width, height, colours) {
  const ratio = devicePixelRatio || 1;
  const [w, h] = [Math.round(width * ratio), Math.round(height * ratio)];
  if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
  const to = canvas.getContext("2d");
  to.setTransform(ratio, 0, 0, ratio, 0, 0);
  to.clearRect(0, 0, width, height);
  to.lineJoin = "round";
  const xs = times.map(x);
  for (const lane of drawn) {
    to.strokeStyle = colours.line;
    to.lineWidth = 1;
    to.beginPath();
    to.moveTo(0, lane.top + lane.height - 0.5);
    to.lineTo(width, lane.top + lane.height - 0.5);
    to.stroke();
    const length = lane.most - lane.least || 1;
    const y = (value) => lane.top + lane.height - PAD - ((value - lane.least) / length) * (lane.height - 2 * PAD);
    const colour = lane.height === SCORE ? colours.score : colours.sensor;
    for (const [from, until] of pieces(lane.mean)) {
      to.beginPath();
      for (let i = from; i < until; i += 1) to.lineTo(xs[i], y(lane.high[i]));
      for (let i = until - 1; i >= from; i -= 1) to.lineTo(xs[i], y(lane.low[i]));
      to.closePath();
      to.globalAlpha = 0.25;
      to.fillStyle = colour;
      to.fill();
      to.globalAlpha = 1;
      to.beginPath();
      for (let i = from; i < until; i += 1) to.lineTo(xs[i], y(lane.mean[i]));
      if (until === from + 1) to.lineTo(xs[from] + 1, y(lane.mean[from]));
      to.strokeStyle = colour;
      to.lineWidth = 1.1;
      to.stroke();
    }
  }
}

// Stretches without a hole: [from, until).
function* pieces(values) {
  let from = 0;
  for (let i = 0; i <= values.length; i += 1) {
    if (i === values.length || values[i] === null) {
      if (i > from) yield [from, i];
      from = i + 1;
    }
  }
}
