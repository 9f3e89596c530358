// The box: words, pictures and results in one place, and what narrows a search.

import { button, make } from "./elements.js";
import { say } from "./languages.js";
import { MODALITIES, hasBalance } from "./query.js";

export const DRAGGED = "application/x-anykey-key";
const at = (id) => document.getElementById(id);
const idOf = (value) => JSON.stringify(value);

/** Shows a query and tells of every change of it: `onChange(query, { isTyping })`. `onFilters()` opens their panel. */
export class Box {
  constructor(onChange, onTrouble, onFilters) {
    this.query = null;
    this.pools = [];
    this.known = new Map(); // of stored keys in the box: what shows them
    this.onChange = onChange;
    this.onTrouble = onTrouble;
    this.onFilters = onFilters;
    this.words = at("words");
    this.#listen();
  }

  /** Shows a query, without telling of it. */
  show(query) {
    this.query = query;
    if (this.words.value !== query.text) this.words.value = query.text;
    at("share").value = Math.round(100 * (1 - query.share));
    this.#showChips();
    this.#showOptions();
    this.#showFilters();
    this.#showBalance();
  }

  /** Adds a stored key, as "more like this" does. `hit` is what is known of it. */
  addKey(key, hit, isNegative = false) {
    if (hit) this.known.set(key, hit);
    const others = this.query.chips.filter((chip) => chip.key !== key);
    this.#change({ chips: [...others, { key, isNegative }] });
  }

  /** Adds pictures. */
  async addFiles(files) {
    const pictures = [...files].filter((file) => file.type.startsWith("image/") || !file.type);
    if (!pictures.length) return this.onTrouble(say("notPicture"));
    const { take } = await import("./photos.js");
    const chips = await Promise.all(pictures.map(async (file) => ({ image: await take(file), isNegative: false })));
    this.#change({ chips: [...this.query.chips, ...chips] });
  }

  setPools(pools) {
    this.pools = pools;
    this.#showOptions();
  }

  #change(changed, isTyping = false) {
    const query = { ...this.query, ...changed };
    this.show(query);
    this.onChange(query, { isTyping });
  }

  #listen() {
    this.words.addEventListener("input", () => this.#change({ text: this.words.value }, true));
    this.words.addEventListener("keydown", (event) => {
      if (event.key !== "Backspace" || this.words.selectionEnd || !this.query.chips.length) return;
      this.#change({ chips: this.query.chips.slice(0, -1) });
    });
    at("box").addEventListener("submit", (event) => {
      event.preventDefault();
      this.onChange(this.query, { isTyping: false, isAsked: true });
    });
    at("share").addEventListener("input", (event) => {
      this.#change({ share: Math.round(100 - Number(event.target.value)) / 100 }, true);
    });
    at("clear").onclick = () => {
      this.#change({ text: "", chips: [] });
      this.words.focus();
    };
    for (const id of ["file", "camera"]) {
      at(id).addEventListener("change", async (event) => {
        await this.addFiles(event.target.files);
        event.target.value = "";
      });
    }
    this.#takeDrops();
    document.addEventListener("paste", (event) => {
      if (!event.clipboardData?.files.length) return;
      event.preventDefault();
      this.addFiles(event.clipboardData.files);
    });
  }

  #takeDrops() {
    let depth = 0;
    const takes = (event) => [DRAGGED, "Files"].some((type) => event.dataTransfer?.types.includes(type));
    const over = (isOver) => document.body.classList.toggle("is-dropping", isOver);
    document.addEventListener("dragenter", (event) => {
      if (!takes(event)) return;
      depth += 1;
      over(true);
    });
    document.addEventListener("dragleave", (event) => {
      if (takes(event) && (depth = Math.max(0, depth - 1)) === 0) over(false);
    });
    document.addEventListener("dragend", () => over((depth = 0) > 0));
    document.addEventListener("dragover", (event) => {
      if (takes(event)) event.preventDefault();
    });
    document.addEventListener("drop", (event) => {
      if (!takes(event)) return;
      event.preventDefault();
      over((depth = 0) > 0);
      const key = event.dataTransfer.getData(DRAGGED);
      if (key) this.addKey(key);
      else this.addFiles(event.dataTransfer.files);
    });
  }

  #showBalance() {
    at("balance").hidden = !hasBalance(this.query);
    at("clear").hidden = !this.query.text && !this.query.chips.length;
  }

  async #showChips() {
    if (!this.query.chips.length) return at("chips").replaceChildren();
    const { showChips } = await import("./chips.js");
    showChips(at("chips"), this.query.chips, this.known, (chips) => this.#change({ chips }));
  }

  async #showFilters() {
    const { filters } = this.query;
    if (idOf(filters) === this.shownFilters) return;
    this.shownFilters = idOf(filters);
    const { chipsOf } = filters.length ? await import("./conditions.js") : { chipsOf: () => [] };
    if (idOf(this.query.filters) !== idOf(filters)) return;
    at("filters-shown").replaceChildren(...chipsOf(filters, (changed) => this.#change({ filters: changed })));
  }

  #showOptions() {
    const { query } = this;
    if (!query) return;
    const kinds = make("div", { className: "segments", role: "group", "aria-label": say("modality") });
    const kind = (name, isOn, modalities) => make("button", {
      type: "button", textContent: name, "aria-pressed": String(isOn), onclick: () => this.#change({ modalities }),
    });
    kinds.append(kind(say("all"), !query.modalities.length, []));
    for (const modality of MODALITIES) {
      const isOn = query.modalities.includes(modality);
      const others = query.modalities.filter((one) => one !== modality);
      const wanted = isOn ? others : [...others, modality];
      kinds.append(kind(say(modality), isOn, wanted.length === MODALITIES.length ? [] : wanted));
    }
    const matches = ["meaning", "exact", "both"].map((name) => [name, say(name)]);
    const match = this.#choice(say("match"), matches, query.match, (value) => this.#change({ match: value }));
    const fold = make("label", { className: "check" },
      make("input", { type: "checkbox", checked: query.fold, onchange: (event) => this.#change({ fold: event.target.checked }) }),
      say("fold"));
    const names = [...new Set([...this.pools, ...(query.pool ? [query.pool] : [])])];
    const pools = [["", say("everywhere")], ...names.map((name) => [name, name])];
    const pool = names.length ? this.#choice(say("pool"), pools, query.pool, (value) => this.#change({ pool: value })) : null;
    const narrow = button(say("filters"), "filter", () => this.onFilters(), { text: true, className: "act" });
    narrow.setAttribute("aria-haspopup", "dialog");
    const focused = [...at("options").querySelectorAll("button, select, input")].indexOf(document.activeElement);
    at("options").replaceChildren(...[kinds, narrow, match, pool, fold].filter(Boolean));
    if (focused >= 0) at("options").querySelectorAll("button, select, input")[focused]?.focus();
  }

  #choice(name, values, value, onPick) {
    const list = make("select", { onchange: (event) => onPick(event.target.value) },
      ...values.map(([one, shown]) => make("option", { value: one, textContent: shown, selected: one === value })));
    return make("label", { className: "choice" }, make("span", {}, name), list);
  }
}
