// Elements and words: whatever is shown goes through textContent, so that no name is ever markup.

const SVG = "http://www.w3.org/2000/svg";

// An element of `name` ("tag.class.class"), its properties, and its children: nodes or text.
export function h(name, props = {}, ...children) {
  return dressed(document.createElement(name.split(".")[0]), name, props, children);
}

export function s(name, props = {}, ...children) {
  return dressed(document.createElementNS(SVG, name.split(".")[0]), name, props, children);
}

function dressed(node, name, props, children) {
  const classes = name.split(".").slice(1);
  if (classes.length) node.classList.add(...classes);
  for (const [key, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) node.addEventListener(key.slice(2), value);
    else if (key === "style") Object.assign(node.style, value); // CSSOM: the policy allows it
    else node.setAttribute(key, value === true ? "" : value);
  }
  node.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  return node;
}

// Put new children in, and the focus back to the one with the same data-key.
export function fill(node, ...children) {
  const key = node.contains(document.activeElement) && document.activeElement.dataset.key;
  node.replaceChildren(...children.flat(3).filter(Boolean));
  if (key) node.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus({ preventScroll: true });
}

const DAY = new Intl.DateTimeFormat(undefined, { dateStyle: "medium" });
const CLOCK = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23" });
const FULL = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "long", hourCycle: "h23" });

export const ms = (iso) => (iso === null || iso === undefined ? null : Date.parse(iso));
export const full = (at) => FULL.format(at);
export const day = (at) => DAY.format(at);
export const clock = (at) => CLOCK.format(at);

// "3 min", of milliseconds.
export function span(length) {
  const seconds = Math.abs(length) / 1000;
  const [unit, size] = [["d", 86400], ["h", 3600], ["min", 60]].find(([, each]) => seconds >= each) ?? ["s", 1];
  return `${(seconds / size).toFixed(seconds / size < 10 && size > 1 ? 1 : 0).replace(/\.0$/, "")} ${unit}`;
}

// A moment as people say it, with the exact one behind it.
export function when(iso) {
  if (!iso) return h("span.dim", {}, "never");
  const at = ms(iso), ago = Date.now() - at;
  const text = Math.abs(ago) < 1000 ? "now"
    : Math.abs(ago) > 40 * 86400e3 ? day(at)
      : ago > 0 ? `${span(ago)} ago` : `in ${span(ago)}`;
  return h("time", { datetime: iso, title: full(at) }, text);
}

const WHOLE = new Intl.NumberFormat();
export const count = (n, one, many = `${one}s`) => `${WHOLE.format(n)} ${n === 1 ? one : many}`;

//: By how many digits: to make one takes longer than to use it a hundred times.
const PLAIN = new Map();
const plain = (digits) => PLAIN.get(digits) ?? PLAIN.set(digits, new Intl.NumberFormat(undefined, { maximumSignificantDigits: digits })).get(digits);

// A figure with as many digits as tell something.
export function figure(x, digits = 3) {
  if (x === null || x === undefined || Number.isNaN(x)) return "–";
  if (x !== 0 && (Math.abs(x) >= 1e6 || Math.abs(x) < 1e-3)) return x.toExponential(digits - 1);
  return plain(Math.max(digits, Math.ceil(Math.log10(Math.abs(x) + 1)))).format(x);
}

// A name of a task, for people.
export function taskName(task) {
  if (!task.task) return "not named yet";
  return `task ${task.task}${task.task_name ? ` “${task.task_name}”` : ""}`;
}

export function badge(kind, text = kind.replace("_", " ")) {
  return h("span.badge", { "data-kind": kind }, text);
}

// A table with a caption that is read aloud; cells are nodes or text.
export function table(caption, heads, rows, props = {}) {
  return h("div.wide", { tabindex: 0, role: "group", "aria-label": caption },
    h("table", props,
      h("caption.aside", {}, caption),
      h("thead", {}, h("tr", {}, heads.map((head) => h("th", { scope: "col" }, head)))),
      h("tbody", {}, rows)));
}

export const row = (cells, props = {}) => h("tr", props, cells.map((cell) => (cell instanceof HTMLTableCellElement ? cell : h("td", {}, cell))));

export const link = (...parts) => `#/${parts.map(encodeURIComponent).join("/")}`;
