// Metadata and pools of one key, edited in its details.

import { button, make } from "./elements.js";
import { say } from "./languages.js";
import { Members, Pools, patchOf } from "./members.js";
import { change, plain } from "./changing.js";

/** A form for a key as `found`; `on` has `saved(outcome)`, `cancelled()` and `reload()`. */
export function editForm(found, can, names, on) {
  const members = new Members(found.payload.metadata, names);
  const pools = new Pools(found.pools, can.pools);
  const wrong = make("p", { className: "trouble", role: "alert", hidden: true });
  const saves = make("button", { type: "submit", className: "act main", textContent: say("save") });
  const actions = make("div", { className: "actions" }, saves, button(say("cancel"), null, on.cancelled, { text: true, className: "act" }));
  const form = make("form", { className: "edit" }, make("h3", { textContent: say("metadata") }), members.element,
    make("h3", { textContent: say("pools") }), pools.element, wrong, actions);
  const tell = (sentence, field = null) => {
    wrong.textContent = sentence;
    wrong.hidden = !sentence;
    form.querySelector("[aria-invalid]")?.removeAttribute("aria-invalid");
    field?.setAttribute("aria-invalid", "true");
    field?.focus();
  };
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    tell("");
    saves.disabled = true;
    try {
      const body = bodyOf(found, members.read(), pools.read());
      if (!Object.keys(body).length) return on.cancelled();
      on.saved(await change("PATCH", found.key, { can, seq: found.seq, body, onWait: (why) => tell(why ? say(why.isAway ? "away" : "busy", { n: why.leftS }) : "") }));
    } catch (error) {
      tell(error.type ? plain(error) : error.message, error.field);
      if (error.type === "precondition_failed" || error.type === "not_found") {
        if (!form.querySelector(".reload")) actions.append(button(say("asItIsNow"), "undo", on.reload, { text: true, className: "act reload" }));
      }
    } finally {
      saves.disabled = false;
    }
  });
  return form;
}

function bodyOf(found, metadata, pools) {
  const body = patchOf(found.payload.metadata, metadata);
  const isSame = pools.length === found.pools.length && pools.every((name) => found.pools.includes(name));
  return isSame ? body : { ...body, pools };
}
