// What is searched and with what: the index's and the model's facts, as the service tells them.

import { make } from "./elements.js";
import { say } from "./languages.js";
import { dialogOf, head, tree } from "./panels.js";
import { ask } from "./service.js";

/** Opens a dialog with all that `GET /info` says. */
export async function showFacts() {
  const info = await ask("info");
  const dialog = dialogOf("facts");
  const names = Object.keys(info).filter((name) => info[name] !== null && typeof info[name] === "object");
  const first = ["index", "model", "release", ...names].filter((name, place, all) => names.includes(name) && all.indexOf(name) === place);
  dialog.replaceChildren(head(dialog, say("facts")), make("div", { className: "inside one" },
    ...first.map((name, place) => make("details", { className: "narrow", open: place < 2 }, make("summary", {}, name), tree(info[name])))));
  dialog.showModal();
}
