// Changes of keys: whether they may be made here, making them, and taking them back.

import { DRAWINGS, button, foreign, make } from "./elements.js";
import { say } from "./languages.js";
import "./panels.js";
import { addressOf, ask, serviceAddress } from "./service.js";

const TOLD_S = 8; // how long it is told what was done where it cannot be undone

Object.assign(DRAWINGS, {
  edit: "M4 20h4L19 9l-4-4L4 16z M13 7l4 4",
  bin: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13",
  undo: "M9 7L4 12l5 5M4 12h10a5 5 0 010 10h-2",
});

/**
 * What may be done to keys: `why` is a sentence where nothing may, `undoS` for how many seconds changes can be undone,
 * `isNumbered` whether a change can depend on the one before it, and `limits` and `pools` are the service's.
 */
export async function abilities(signal) {
  const [info, access] = await Promise.all([
    ask("info", { signal }),
    ask(`${serviceAddress()}access`, { signal }).catch(() => null), // the service says so again when something is changed
  ]);
  const { writable, undo_s: undoS } = info.changes;
  const mayWrite = !access || access.scopes.includes("write");
  return {
    why: !writable ? say("readOnly") : !mayWrite ? say(access.name ? "mayNotWrite" : "noKeyToWrite", { name: access.name ?? "" }) : null,
    undoS, isNumbered: info.index.engine !== "milvus", limits: info.limits, pools: Object.keys(info.index.pools),
  };
}

/**
 * Makes a change of one key and gives its outcome. `seq` is the number of the change that must have stored what is there, 0
 * for nothing. It is asked for under a name of its own, so that asking again after a broken connection does it once.
 */
export async function change(method, key, { can, seq, body, signal, onWait }) {
  const headers = once(can);
  if (can.isNumbered && seq !== undefined && seq !== null) headers[seq ? "if-match" : "if-none-match"] = seq ? `"${seq}"` : "*";
  return ask(`${addressOf(key)}${can.undoS ? "?undo=true" : ""}`, { method, headers, body, signal, onWait });
}

function once(can) {
  const name = Array.from(crypto.getRandomValues(new Uint8Array(16)), (one) => one.toString(16).padStart(2, "0")).join("");
  return can.isNumbered ? { "idempotency-key": name } : {};
}

/** Why a change was not made, in the reader's words where there are some. */
export function plain(error) {
  const name = { read_only: "readOnly", index_locked: "locked", precondition_failed: "changedElsewhere", forbidden: "forbidden" }[error.type];
  return name ? `${say(name)} (${error.message})` : error.message;
}

/** Tells what was done, with a button that takes it back while the service can. `onUndone` is called once something was. */
export function tell(sentence, outcomes, can, onUndone) {
  const undoable = outcomes.filter((outcome) => outcome.undo_s);
  const notice = make("div", { className: "notice", role: "status" });
  const said = make("span", {}, foreign(sentence));
  const leftS = undoable.length ? Math.min(...undoable.map((outcome) => outcome.undo_s)) : TOLD_S;
  const close = button(say("close"), "close", () => leave(notice));
  const undo = undoable.length ? button(say("undo"), "undo", async () => {
    clearTimeout(ending);
    undo.remove();
    const num = await takeBack(undoable, can, said);
    setTimeout(leave, 1000 * TOLD_S, notice);
    if (num) onUndone();
  }, { text: true, className: "act" }) : null;
  notice.append(said, ...[undo, close].filter(Boolean));
  const ending = setTimeout(leave, 1000 * leftS, notice);
  placeOfNotices().append(notice);
  undo?.focus({ preventScroll: true });
}

function leave(notice) {
  notice.remove();
}

/** Takes changes back, the last one first; says what became of it, and how many were. */
async function takeBack(outcomes, can, said) {
  const failures = [];
  for (const { seq } of [...outcomes].reverse()) {
    await ask("keys/undo", { body: { seq }, headers: once(can) }).catch((error) => failures.push(error));
  }
  const num = outcomes.length - failures.length;
  const sentences = failures.slice(0, 1).map((error) => say({ precondition_failed: "undoChanged", not_found: "undoLate" }[error.type] ?? "undoFailed", { why: error.message }));
  if (num) sentences.unshift(outcomes.length > 1 ? say("undoneSome", { n: num }) : say("undone"));
  said.replaceChildren(sentences.join(" "));
  return num;
}

/** Where notices are: in the dialog that is open, as nothing else can be reached then, and on the page otherwise. */
function placeOfNotices() {
  const dialog = document.querySelector("dialog[open]");
  let place = document.getElementById("notices");
  place ??= make("div", { id: "notices" });
  (dialog ?? document.body).append(place);
  dialog?.addEventListener("close", () => document.body.append(place), { once: true });
  return place;
}
