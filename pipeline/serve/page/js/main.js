// The shell: which page, how it looks, what happens meanwhile, and the keys.

import { ask, signIn } from "./dialogs.js";
import { listen, onSignIn } from "./api.js";
import { fill, h, link } from "./dom.js";
import { isTold, told } from "./told.js";
import * as ledger from "./ledger.js";
import * as schedules from "./schedules.js";
import * as stream from "./stream.js";
import * as streams from "./streams.js";

const PAGES = { streams, stream, ledger, schedules };
const main = document.querySelector("#main");
const live = document.querySelector("#live");
let shown = { name: null, leave: null, changed: null };

// Pages ----------------------------------------------------------------------------------------

function wanted() {
  const [name = "", ...rest] = location.hash.replace(/^#\/?/, "").split("/").map(decodeURIComponent);
  if (name === "stream" && rest[0]) return ["stream", rest[0]];
  return [name in PAGES && name !== "stream" ? name : "streams", null];
}

async function show() {
  const [name, of] = wanted();
  shown.leave?.();
  shown = { name, of, leave: null, changed: null };
  const mine = shown;
  for (const each of document.querySelectorAll("nav [data-page]")) {
    const here = each.dataset.page === (name === "stream" ? "streams" : name);
    if (here) each.setAttribute("aria-current", "page");
    else each.removeAttribute("aria-current");
  }
  document.title = of ? `${of} – tidemark` : `${name[0].toUpperCase()}${name.slice(1)} – tidemark`;
  const place = h("div.page");
  try {
    const page = await PAGES[name].open(place, of);
    if (mine !== shown) return page?.leave?.();
    Object.assign(shown, page);
  } catch (failure) {
    place.append(h("p.sorry", { role: "alert" }, failure.message), h("p", {}, h("a", { href: link() }, "All streams")));
  }
  if (mine === shown) {
    fill(main, place);
    main.dataset.ready = name;
    if (document.activeElement === document.body) main.focus({ preventScroll: true });
  }
}

addEventListener("hashchange", () => { delete main.dataset.ready; scrollTo(0, 0); show(); });

// What happens ---------------------------------------------------------------------------------

let waits = null;
const happened = [];

listen({
  state(state) {
    live.dataset.state = state;
    live.textContent = state;
  },
  entry(entry) {
    if (isTold(entry)) tell(told(entry));
    happened.push(entry);
    waits ??= setTimeout(() => {
      waits = null;
      shown.changed?.(happened.splice(0));
    }, 300);
  },
});

function tell(text) {
  const place = document.querySelector("#told");
  const note = h("p", {}, text);
  place.append(note);
  while (place.children.length > 3) place.firstChild.remove();
  setTimeout(() => note.remove(), 6000);
}

// Looks ----------------------------------------------------------------------------------------

const THEME = "tidemark-theme";
const dark = matchMedia("(prefers-color-scheme: dark)");

function dress() {
  const chosen = localStorage.getItem(THEME);
  document.documentElement.dataset.theme = chosen ?? (dark.matches ? "dark" : "light");
  dispatchEvent(new Event("dressed"));
}

function turn() {
  const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
  if ((next === "dark") === dark.matches) localStorage.removeItem(THEME);
  else localStorage.setItem(THEME, next);
  dress();
}

dark.addEventListener("change", dress);
document.querySelector("#theme").addEventListener("click", turn);
dress();

// Keys -----------------------------------------------------------------------------------------

const go = (where) => () => { location.hash = where; };
const KEYS = [
  ["s", "Streams", go("#/")],
  ["l", "Ledger", go("#/ledger")],
  ["c", "Schedules", go("#/schedules")],
  ["d", "Dark or light", turn],
  ["1 … 6", "On a stream: its sections, one after the other", null],
  ["← →  + −  0", "On a time line: earlier, later, closer, further, all of it", null],
  ["?", "This list", () => help()],
];

function help() {
  ask({
    title: "Keyboard",
    body: h("dl.keys", {}, KEYS.map(([key, what]) => [h("dt", {}, h("kbd", {}, key)), h("dd", {}, what)])),
    answers: [["Close", null]],
  });
}

document.querySelector("#help").addEventListener("click", help);
addEventListener("keydown", (event) => {
  const typing = event.target.closest("input, textarea, select, dialog, [contenteditable]");
  if (typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const section = /^[1-9]$/.test(event.key) && document.querySelectorAll("main section[id]")[event.key - 1];
  if (section) {
    section.scrollIntoView({ behavior: "smooth" });
    section.querySelector("h2").focus({ preventScroll: true });
    return;
  }
  const found = KEYS.find(([key]) => key === event.key);
  if (found?.[2]) {
    event.preventDefault();
    found[2]();
  }
});

onSignIn(signIn);
show();
