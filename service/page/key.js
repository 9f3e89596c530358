// Asks for an API key, which is kept for the session of the tab and sent with each request, and never part of a link.

import { button, make } from "./elements.js";
import { say } from "./languages.js";
import { dialogOf, head } from "./panels.js";
import { hasKey, useKey } from "./service.js";

const SENDABLE = /^[\x21-\x7e]+$/; // what a header can carry

/** Opens the dialog, with the service's sentence about why; says whether there is a key when it is closed. */
export function askForKey(sentence = "") {
  const dialog = dialogOf("key");
  const wrong = make("p", { className: "trouble", role: "alert", textContent: sentence, hidden: !sentence });
  const field = make("input", {
    type: "password", id: "key-field", autocomplete: "off", spellcheck: false, required: true, className: "entry", autofocus: true,
    "aria-describedby": "key-hint",
  });
  const form = make("form", { className: "inside one", method: "dialog" }, wrong,
    make("label", { htmlFor: "key-field", textContent: say("keyLabel") }), field,
    make("p", { id: "key-hint", className: "faint", textContent: say("keyHint") }),
    make("div", { className: "actions" },
      make("button", { type: "submit", className: "act main", textContent: say("keyUse") }),
      hasKey() ? button(say("keyForget"), null, () => dialog.close("forget"), { text: true, className: "act" }) : null));
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    const key = field.value.trim();
    if (SENDABLE.test(key)) return dialog.close(`use ${key}`);
    wrong.textContent = say("keyWrong");
    wrong.hidden = false;
    field.select();
  });
  dialog.returnValue = "";
  dialog.replaceChildren(head(dialog, say("keyTitle")), form);
  dialog.showModal();
  field.focus();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => {
      const answer = dialog.returnValue;
      dialog.returnValue = "";
      dialog.replaceChildren();
      if (answer === "forget") useKey(null);
      if (answer.startsWith("use ")) useKey(answer.slice(4));
      resolve(answer.startsWith("use "));
    }, { once: true });
  });
}
