// New keys: photos, a text, or both, each photo a key of its own or all of them together.

import { button, icon, make, picture } from "./elements.js";
import { say } from "./languages.js";
import { Members, Pools } from "./members.js";
import { abilities, change, plain, tell } from "./changing.js";
import { dialogOf, head } from "./panels.js";
import { addressOf, ask } from "./service.js";

const AT_ONCE = 3;
const MOST_PHOTOS = 200;
const MOST_IN_NAME = 60;
const MIB = 2 ** 20;

let form = null; // what was entered, until it is stored

/** Opens the form, with what was entered before, or says why nothing can be added. `changed` is called when something was. */
export async function showAdding(changed) {
  const dialog = dialogOf("adding");
  if (dialog.open) return;
  dialog.replaceChildren(head(dialog, say("addTitle")), make("p", { className: "inside one faint", textContent: "..." }));
  dialog.showModal();
  let inside;
  try {
    const can = await abilities();
    if (can.why === null && !form) {
      const fields = await ask("fields?limit=200").catch(() => ({ fields: [] })); // for suggestions, which an index may not have
      form = new AddForm(dialog, can, fields.fields.map((one) => one.field).filter((name) => /^\w+$/.test(name)), changed);
    }
    inside = can.why === null ? form.element : make("p", { className: "inside one", textContent: can.why });
  } catch (error) {
    inside = make("p", { className: "inside one trouble", textContent: error.message });
  }
  dialog.replaceChildren(dialog.firstChild, inside, ...dialog.querySelectorAll("#notices"));
  if (inside === form?.element) form.text.focus();
}

class AddForm {
  constructor(dialog, can, names, changed) {
    Object.assign(this, { dialog, can, changed, photos: [], isTogether: false, stored: [], adding: null });
    this.text = make("textarea", { className: "entry", rows: 3, dir: "auto", maxLength: can.limits.max_text_chars, id: "add-text" });
    this.members = new Members({}, names);
    this.pools = new Pools([], can.pools);
    this.list = make("ul", { className: "added" });
    this.wrong = make("p", { className: "trouble", role: "alert", hidden: true });
    this.progress = make("progress", { max: 1, value: 0, hidden: true, "aria-label": say("adding") });
    this.together = make("input", { type: "checkbox", onchange: () => {
      this.isTogether = this.together.checked;
      this.#show();
    } });
    this.togetherLabel = make("label", { className: "check" }, this.together, say("together"));
    this.submits = make("button", { type: "submit", className: "act main" });
    const file = make("input", { type: "file", accept: "image/*", multiple: true, id: "add-photos", "aria-label": say("addPhotos"), onchange: () => {
      this.take(file.files);
      file.value = "";
    } });
    this.element = make("form", { className: "inside one adding" },
      make("label", { className: "place" }, icon("image"), say("photosHere"), file), this.togetherLabel,
      make("label", { htmlFor: "add-text", textContent: say("text_") }), this.text,
      make("h3", { textContent: say("keys") }), this.list,
      make("h3", { textContent: say("metadata") }), this.members.element,
      make("h3", { textContent: say("pools") }), this.pools.element,
      this.wrong, make("div", { className: "actions" }, this.submits, this.progress));
    this.rows = [this.#row(null)];
    this.#listen();
    this.#show();
  }

  /** Takes photos; what is no picture is told. */
  take(files) {
    if (this.adding) return;
    const pictures = [...files].filter((file) => file.type.startsWith("image/") || !file.type);
    this.#tell(pictures.length < files.length ? say("notPicture") : pictures.length + this.photos.length > MOST_PHOTOS ? say("mostPhotos", { n: MOST_PHOTOS }) : "");
    const rows = pictures.slice(0, MOST_PHOTOS - this.photos.length).map((file) => this.#row(file));
    this.photos.push(...rows);
    this.#show();
  }

  #listen() {
    const { dialog } = this;
    for (const kind of ["dragenter", "dragover", "drop", "paste"]) { // which search with a picture elsewhere
      dialog.addEventListener(kind, (event) => {
        const data = event.dataTransfer ?? event.clipboardData;
        if (!data?.types.includes("Files") || !dialog.contains(this.element)) return;
        event.preventDefault();
        event.stopPropagation();
        if (kind === "drop" || kind === "paste") this.take(data.files);
      });
    }
    this.text.addEventListener("input", () => this.#suggest());
    this.element.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#submit();
    });
    dialog.addEventListener("close", () => this.adding?.abort());
  }

  /** One key to be: a photo or none, a name and what became of it. */
  #row(file) {
    const key = make("input", { className: "entry", dir: "auto", maxLength: 1000, "aria-label": say("keyName"), placeholder: say("keyName") });
    const state = make("span", { className: "state", role: "status" });
    const address = file ? URL.createObjectURL(file) : null;
    const row = { file, key, state, address, isNamed: false };
    key.addEventListener("input", () => {
      row.isNamed = key.value !== "";
      if (!row.isNamed) this.#suggest();
    });
    row.element = make("li", {}, file ? picture(address) : icon("text"), key, state,
      file ? button(`${say("remove")}: ${file.name.slice(0, MOST_IN_NAME)}`, "close", () => this.#drop(row)) : null);
    return row;
  }

  #drop(row) {
    if (this.adding) return;
    this.photos = this.photos.filter((one) => one !== row);
    if (row.address) URL.revokeObjectURL(row.address);
    this.#show();
  }

  #show() {
    const several = this.photos.length > 1;
    this.togetherLabel.hidden = !several || this.photos.length > this.can.limits.max_images;
    const isTogether = this.isTogether && !this.togetherLabel.hidden;
    this.shown = this.photos.length ? (isTogether ? this.photos.slice(0, 1) : this.photos) : this.rows;
    for (const row of this.photos) row.images = isTogether ? this.photos : [row];
    this.list.replaceChildren(...(this.photos.length ? this.photos : this.rows).map((row) => row.element));
    for (const row of this.photos) row.key.hidden = !this.shown.includes(row);
    this.submits.textContent = this.shown.length > 1 ? say("addSeveral", { n: this.shown.length }) : say("addOne");
    this.#suggest();
  }

  /** Names for what nobody has named: after the file, or after the first words. */
  #suggest() {
    const taken = new Set(this.shown.filter((row) => row.isNamed).map((row) => row.key.value));
    for (const row of this.shown) {
      if (row.isNamed) continue;
      const words = row.file ? row.file.name.replace(/\.\w{2,5}$/, "") : this.text.value.trim().split(/\s+/).slice(0, 6).join(" ");
      const base = words.normalize("NFC").toLowerCase().replace(/[^\p{L}\p{N}._]+/gu, "-").replace(/^-+|-+$/g, "").slice(0, MOST_IN_NAME);
      let name = base || (row.file ? "photo" : "");
      for (let n = 2; name && taken.has(name); n += 1) name = `${base || "photo"}-${n}`;
      row.key.value = name;
      taken.add(name);
    }
  }

  async #submit() {
    if (this.adding) return;
    this.#tell("");
    let shared;
    try {
      shared = { metadata: this.members.read(), pools: this.pools.read() };
    } catch (error) {
      error.field?.focus();
      return this.#tell(error.message);
    }
    const text = this.text.value.trim() ? this.text.value : undefined;
    if (!this.photos.length && !text) return this.#tell(say("nothingToAdd"));
    const unnamed = this.shown.find((row) => !row.key.value.trim());
    if (unnamed) {
      unnamed.key.focus();
      return this.#tell(say("keyMissing"));
    }
    await this.#add([...this.shown], { text, ...shared });
  }

  /** Adds keys, a few at a time; those that cannot be added stay, each with why. */
  async #add(rows, shared) {
    this.adding = new AbortController();
    this.submits.disabled = true;
    Object.assign(this.progress, { max: rows.length, value: 0, hidden: rows.length < 2 });
    const outcomes = [];
    const waiting = [...rows];
    const works = async () => {
      for (let row = waiting.shift(); row && !this.adding.signal.aborted; row = waiting.shift()) {
        const outcome = await this.#addOne(row, shared);
        this.progress.value += 1;
        if (!outcome) continue;
        outcomes.push(outcome);
        row.isDone = true;
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, works));
    this.adding = null;
    this.submits.disabled = false;
    this.progress.hidden = true;
    this.#finish(rows, outcomes);
  }

  async #addOne(row, { text, metadata, pools }) {
    const { can } = this;
    const { signal } = this.adding;
    const key = row.key.value;
    row.state.textContent = "...";
    row.element.classList.remove("failed");
    try {
      for (const { file } of row.images ?? []) {
        if (file.size > can.limits.max_image_bytes) throw new Error(say("tooLarge", { n: Math.floor(can.limits.max_image_bytes / MIB) }));
      }
      if (!can.isNumbered) await requireAbsent(key, signal);
      const images = await Promise.all((row.images ?? []).map(({ file }) => base64(file)));
      const body = { text, image: images.length > 1 ? images : images[0], metadata, pools };
      const onWait = (why) => (row.state.textContent = why ? say(why.isAway ? "away" : "busy", { n: why.leftS }) : "...");
      const outcome = await change("PUT", key, { can, seq: 0, body, signal, onWait });
      row.state.textContent = outcome.text_cut ? say("textCut") : "";
      return outcome;
    } catch (error) {
      row.element.classList.add("failed");
      row.state.textContent = signal.aborted ? say("cancelled") : error.type === "precondition_failed" ? say("keyTaken") : plain(error);
      return null;
    }
  }

  #finish(rows, outcomes) {
    for (const row of rows.filter((one) => one.isDone)) {
      for (const one of row.images ?? []) this.#drop(one);
    }
    if (!outcomes.length) return;
    const isAll = outcomes.length === rows.length;
    if (isAll) {
      form = null;
      this.dialog.close();
    }
    tell(outcomes.length > 1 ? say("addedSeveral", { n: outcomes.length }) : say("added", { key: outcomes[0].key.slice(0, MOST_IN_NAME) }), outcomes, this.can, this.changed);
    this.changed();
  }

  #tell(sentence) {
    this.wrong.textContent = sentence;
    this.wrong.hidden = !sentence;
  }
}

/** For an index whose changes have no numbers, so that none can depend on there being no such key. */
async function requireAbsent(key, signal) {
  const isThere = await ask(addressOf(key), { signal }).then(() => true, (error) => {
    if (error.status === 404) return false;
    throw error;
  });
  if (isThere) throw new Error(say("keyTaken"));
}

function base64(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result.slice(reader.result.indexOf(",") + 1));
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}
