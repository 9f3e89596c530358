// What dialogs and panels have in common. Their style and their sentences are loaded with the first of them.

import { DRAWINGS, button, foreign, make } from "./elements.js";
import { addSentences, say } from "./languages.js";

const MOST_CHARACTERS = 20_000;
const MOST_ENTRIES = 200;
const READ_MS = 60; // a character, and at least 1500 ms in all

Object.assign(DRAWINGS, {
  copy: "M9 9h11v11H9z M15 9V4H4v11h5",
  link: "M10 14a4 4 0 006 0l3-3a4 4 0 00-6-6l-1 1M14 10a4 4 0 00-6 0l-3 3a4 4 0 006 6l1-1",
  next: "M9 5l7 7-7 7",
  back: "M15 5l-7 7 7 7",
});
await Promise.all([addSentences(), styled("page/panels.css")]);

function styled(address) {
  const sheet = make("link", { rel: "stylesheet", href: address });
  const loaded = new Promise((resolve) => {
    sheet.onload = sheet.onerror = resolve;
  });
  document.head.append(sheet);
  return loaded;
}

/** The dialog of a name, made when it is first asked for. A click beside it closes it. */
export function dialogOf(name) {
  const there = document.getElementById(name);
  if (there?.dataset.isKnown) return there;
  const dialog = there ?? make("dialog", { id: name, "aria-labelledby": `${name}-title` });
  dialog.dataset.isKnown = "1";
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
  if (!there) document.body.append(dialog);
  return dialog;
}

/** The head of a dialog: its title and the button that closes it. */
export function head(dialog, title) {
  return make("header", { role: "none" }, make("h2", { id: `${dialog.id}-title`, textContent: title }), button(say("close"), "close", () => dialog.close()));
}

/** Puts text on the clipboard. */
export async function copy(text) {
  try {
    return await navigator.clipboard.writeText(text);
  } catch { /* a page that came over plain HTTP has no clipboard, and others may be refused it */ }
  const field = make("textarea", { value: text, className: "unseen" });
  (document.querySelector("dialog[open]") || document.body).append(field);
  field.select();
  document.execCommand("copy");
  field.remove();
}

/** A button that copies a text, and says for a moment that it did. */
export function copyButton(name, drawing, textOf, done = say("copied")) {
  const copies = button(name, drawing, async () => {
    await copy(textOf());
    copies.lastChild.textContent = done;
    setTimeout(() => (copies.lastChild.textContent = name), Math.max(1500, READ_MS * done.length));
  }, { text: true, className: "act" });
  return copies;
}

/** Values as they are: names and values, objects within objects. */
export function tree(value) {
  if (value === null || typeof value !== "object") return foreign(String(value).slice(0, MOST_CHARACTERS), "span");
  if (Array.isArray(value) && value.every((one) => one === null || typeof one !== "object")) {
    return foreign(value.slice(0, MOST_ENTRIES).join(", ") || say("none"), "span");
  }
  const entries = Object.entries(value).slice(0, MOST_ENTRIES);
  if (!entries.length) return make("span", { textContent: say("none") });
  return make("dl", { className: "tree" },
    ...entries.flatMap(([name, one]) => [foreign(name.slice(0, 200), "dt"), make("dd", {}, tree(one))]));
}
