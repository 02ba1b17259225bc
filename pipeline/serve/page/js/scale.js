// Time to pixels, and the ticks between.

const SECOND = 1000, MINUTE = 60 * SECOND, HOUR = 60 * MINUTE, DAY = 24 * HOUR;
const STEPS = [
  1, 10, 100, SECOND, 2 * SECOND, 5 * SECOND, 10 * SECOND, 15 * SECOND, 30 * SECOND,
  MINUTE, 2 * MINUTE, 5 * MINUTE, 10 * MINUTE, 15 * MINUTE, 30 * MINUTE,
  HOUR, 2 * HOUR, 3 * HOUR, 6 * HOUR, 12 * HOUR, DAY, 2 * DAY, 7 * DAY, 30 * DAY, 90 * DAY, 365 * DAY, 3650 * DAY,
];
//: The least that can be looked at, in milliseconds.
const LEAST = 100;

// Ticks of [a, b] that are at least `apart` pixels from each other: [[at, text]].
export function ticks([a, b], width, apart = 96) {
  const least = (b - a) * apart / Math.max(width, 1);
  const step = STEPS.find((each) => each >= least) ?? STEPS.at(-1);
  const zone = new Date(a).getTimezoneOffset() * MINUTE; // days begin at local midnight
  const found = [];
  for (let at = Math.ceil((a - zone) / step) * step + zone; at <= b; at += step) found.push([at, text(at, step)]);
  return found;
}

const format = (parts) => new Intl.DateTimeFormat(undefined, parts);
const CLOCK = { hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
const YEAR = format({ year: "numeric" }), DATE = format({ day: "numeric", month: "short" });
const TIME = format(CLOCK), EXACT = format({ ...CLOCK, second: "2-digit" });

function text(at, step) {
  const date = new Date(at);
  const midnight = date.getHours() + date.getMinutes() + date.getSeconds() === 0;
  return (step >= 300 * DAY ? YEAR : step >= DAY || midnight ? DATE : step < MINUTE ? EXACT : TIME).format(date);
}

// [a, b] moved by `share` of its length, and made `factor` as long about the point at `at`.
export function moved([a, b], { share = 0, factor = 1, at = (a + b) / 2 } = {}, [first, last] = [-Infinity, Infinity]) {
  const length = Math.max(LEAST, Math.min((b - a) * factor, last - first));
  const held = b > a ? (at - a) / (b - a) : 0.5;
  let start = at - held * length + share * length;
  start = Math.min(Math.max(start, first), last - length);
  return [start, start + length];
}

// Neighbours that are closer than `apart` pixels, together: [[item, ...], ...].
export function gathered(items, place, apart) {
  const found = [];
  for (const item of items) {
    const last = found.at(-1);
    if (last && place(item) - place(last[0]) < apart) last.push(item);
    else found.push([item]);
  }
  return found;
}
