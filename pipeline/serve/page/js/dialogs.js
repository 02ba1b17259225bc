// What is asked of a person: a word before an act, a token, or only to read.

import { Refused, act, forget, get } from "./api.js";
import { h } from "./dom.js";

const ACTOR = "tidemark-actor";

// A dialog with a title, a body and answers [text, value, look]; promises the value, null on Esc.
export function ask({ title, body, answers, before }) {
  const heading = h("h2", { id: "asked" }, title);
  const dialog = h("dialog", { "aria-labelledby": "asked" });
  const form = h("form", { method: "dialog" }, heading, body);
  return new Promise((resolve) => {
    let value = null;
    const sorry = h("p.sorry", { role: "alert" });
    const buttons = answers.map(([text, given, look]) => h(`button.${look ?? "plain"}`, {
      type: given === null ? "button" : "submit",
      ...(given === null ? { onclick: () => dialog.close() } : {}),
    }, text));
    form.append(sorry, h("div.answers", {}, buttons));
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const chosen = answers[buttons.indexOf(event.submitter)]?.[1] ?? answers.find(([, given]) => given !== null)?.[1];
      buttons.forEach((button) => { button.disabled = true; });
      try {
        value = before ? await before(chosen, new FormData(form)) : chosen;
        dialog.close();
      } catch (failure) {
        sorry.textContent = failure.message;
      } finally {
        buttons.forEach((button) => { button.disabled = false; });
      }
    });
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(value);
    });
    dialog.append(form);
    document.body.append(dialog);
    dialog.showModal();
  });
}

export function signIn() {
  forget();
  return ask({
    title: "A token is needed",
    body: [
      h("p.dim", {}, "It is kept until this tab is closed. tidemark token add NAME --role reader makes one."),
      h("label", {}, "Token", h("input", { name: "token", type: "password", required: true, autocomplete: "off" })),
    ],
    answers: [["Cancel", null], ["Go on", "go", "strong"]],
    before: (_, given) => given.get("token").trim(),
  });
}

let known = null;
// Who asks: {name, role}.
export async function me() {
  known ??= await get("me");
  return known;
}

const ROLES = ["reader", "operator", "approver"];
export const may = (who, role) => ROLES.indexOf(who.role) >= ROLES.indexOf(role);

// 128 random bits: getRandomValues is there without TLS, randomUUID is not.
const newId = () => Array.from(crypto.getRandomValues(new Uint8Array(16)), (x) => x.toString(16).padStart(2, "0")).join("");

// Ask for the reason of an act (and who acts, if no token says it), then do it; the answer or null.
export async function decide({ title, text, path, fields = [], verb, look = "strong", said = () => ({}) }) {
  const who = await me();
  const id = newId(); // one for the dialog: asked twice, done once
  return ask({
    title,
    body: [
      text && h("p", {}, text),
      fields,
      h("label", {}, "Reason", h("textarea", { name: "reason", required: true, maxlength: 1000, rows: 2, autofocus: !fields.length })),
      who.name
        ? h("p.dim", {}, `Kept in the ledger as said by ${who.name}.`)
        : h("label", {}, "Who decides", h("input", { name: "actor", required: true, maxlength: 100, autocomplete: "name", value: localStorage.getItem(ACTOR) ?? "" })),
    ].filter(Boolean).flat(),
    answers: [["Cancel", null], [verb ?? title, "do", look]],
    async before(_, given) {
      const reason = given.get("reason").trim(), actor = given.get("actor")?.trim();
      if (!reason) throw new Refused(0, "Say why.");
      if (actor) localStorage.setItem(ACTOR, actor);
      return act(path, { reason, request_id: id, ...(actor ? { actor } : {}), ...said(given) });
    },
  });
}
