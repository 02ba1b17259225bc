// The regimes that are known, and the word of a person on each.

import { decide, may } from "./dialogs.js";
import { badge, fill, h, row, table, when } from "./dom.js";
import { hue } from "./timeline.js";

const KINDS = ["normal", "fault", "ignore"];

export function regimes(place, state) {
  const { tasks } = state;
  fill(place, tasks.length
    ? table("Regimes", ["Regime", "Name", "Kind", "First seen", h("span.aside", {}, "Say what it is")], tasks.map((task) => row([
      h("th", { scope: "row" }, h("i.dot", { "data-hue": hue(task.number) }), `task ${task.number}`),
      task.name ?? h("span.dim", {}, "–"), badge(task.kind), when(task.created),
      may(state.who, "operator") && task.number ? mark(state, task) : "",
    ])))
    : h("p.dim", {}, "None yet: the first is named once enough of it was seen."));
}

const mark = (state, task) => h("button.plain", {
  type: "button", "data-key": `mark-${task.number}`, "aria-label": `Say what task ${task.number} is`,
  async onclick() {
    const answer = await decide({
      title: `Task ${task.number}`, verb: "Say so", path: `${state.of}/tasks/${task.number}`,
      text: "A fault, or a task to ignore, is never trained on, and is recognised when it returns.",
      fields: [
        h("label", {}, "Kind", h("select", { name: "kind", autofocus: true }, KINDS.map((kind) => h("option", { value: kind, selected: kind === task.kind }, kind)))),
        h("label", {}, "Name", h("input", { name: "name", maxlength: 100, value: task.name ?? "" })),
      ],
      said: (given) => ({ kind: given.get("kind"), ...(given.get("name") !== (task.name ?? "") ? { name: given.get("name") } : {}) }),
    });
    if (answer) await state.again();
  },
}, "Mark");
