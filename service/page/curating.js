// What a curator can do with a key that is shown: edit its metadata and pools, or delete it.

import { button, make } from "./elements.js";
import { abilities, change, plain, tell } from "./changing.js";
import { say } from "./languages.js";
import { ask } from "./service.js";

const KEPT_MS = 30_000;
let known = null; // what may be done, as it was told lately

function whatMayBeDone() {
  if (!known || known.untilMs < Date.now()) known = { untilMs: Date.now() + KEPT_MS, can: abilities() };
  known.can.catch(() => (known = null));
  return known.can;
}

/**
 * Offers it below what is shown of a key, or says why nothing can be changed. `details` are `found`, the key as it is stored,
 * `facts`, the element that a form takes the place of, and `dialog`; `on` has `changed()`, `show()` and `close()`.
 */
export async function offerChanges(place, { found, facts, dialog }, on) {
  const can = await whatMayBeDone();
  if (can.why) return place.append(make("p", { className: "faint", textContent: can.why }));
  const wrong = make("p", { className: "trouble", role: "alert", hidden: true });
  const edits = button(say("edit"), "edit", async () => {
    const [{ editForm }, fields] = await Promise.all([import("./editing.js"), ask("fields?limit=200").catch(() => ({ fields: [] }))]);
    const names = fields.fields.map((one) => one.field).filter((name) => /^\w+$/.test(name));
    const form = editForm(found, can, names, {
      cancelled: on.show, reload: on.show,
      saved: async (outcome) => {
        await on.show();
        tell(say("saved"), [outcome], can, () => changed(on));
        on.changed();
      },
    });
    facts.replaceChildren(form);
    form.querySelector("input, textarea, button").focus();
  }, { text: true, className: "act" });
  let isSure = Boolean(can.undoS);
  const deletes = button(say("delete_"), "bin", async () => {
    if (!isSure) {
      isSure = true;
      deletes.lastChild.textContent = say("deleteForGood");
      return;
    }
    wrong.hidden = true;
    deletes.disabled = true;
    try {
      const outcome = await change("DELETE", found.key, { can, seq: found.seq });
      const closed = new Promise((resolve) => dialog.addEventListener("close", resolve, { once: true }));
      on.close();
      await closed;
      on.changed();
      const sentence = say("deleted", { key: found.key.slice(0, 60) });
      tell(can.undoS && !outcome.undo_s ? `${sentence} ${say("notKept")}` : sentence, [outcome], can, on.changed);
    } catch (error) {
      wrong.textContent = plain(error);
      wrong.hidden = false;
      deletes.disabled = false;
      if (error.type === "precondition_failed") place.append(button(say("asItIsNow"), "undo", on.show, { text: true, className: "act" }));
    }
  }, { text: true, className: "act danger" });
  place.append(make("div", { className: "actions" }, edits, deletes), wrong);
}

function changed(on) {
  on.show();
  on.changed();
}
