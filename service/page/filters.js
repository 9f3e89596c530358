// The panel that narrows a search by what the metadata really hold: values by click, ranges by inputs, and JSON for experts.

import { button, foreign, make } from "./elements.js";
import { asFilters, asJson, bounded, boundsOf, chosen, faultIn, toggled, valueText, without } from "./conditions.js";
import { say } from "./languages.js";
import { dialogOf, head } from "./panels.js";
import { toScope } from "./query.js";
import { ask } from "./service.js";

const FIELDS = 50;
const OPEN_FIELDS = 8;
const MORE_VALUES = 100;
const WHILE_TYPING_MS = 250;
const DAY_MS = 86_400_000;
const SHEET = matchMedia("(max-width: 900px)"); // where the panel covers what it narrows

const idOf = (value) => JSON.stringify(value);
const isKept = (value) => typeof value !== "number" || !Number.isInteger(value) || Number.isSafeInteger(value);

/** The panel, whose being open is a step of the history. `on` has `change(filters, { isTyping })`. */
export class Filters {
  constructor(on) {
    this.on = on;
    this.sections = new Map();
    this.dialog = dialogOf("filters");
    this.list = make("div", { className: "fields" });
    this.note = make("p", { className: "faint", role: "status" });
    this.json = new JsonField(() => this.query, on);
    const done = button(say("showHits"), null, () => this.close(), { text: true, className: "act main done" });
    this.dialog.replaceChildren(head(this.dialog, say("filters")), make("div", { className: "inside one" }, this.note, this.list, this.json.element), done);
    this.dialog.addEventListener("close", () => {
      document.body.classList.remove("has-drawer");
      const { hasFilters, ...state } = history.state ?? {};
      if (hasFilters) history.replaceState(state, "");
    });
    this.dialog.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || SHEET.matches) return;
      event.preventDefault();
      this.close();
    });
    new ResizeObserver(([{ target }]) => this.dialog.style.setProperty("--below", `${target.offsetHeight}px`)).observe(document.querySelector("body > header"));
  }

  get isOpen() {
    return this.dialog.open;
  }

  /** Opens it, or closes it. */
  toggle(query) {
    if (this.isOpen) return this.close();
    history.pushState({ ...history.state, hasFilters: true }, "");
    return this.follow(query);
  }

  /** Is open or not as the step of the history says that is gone to. */
  follow(query) {
    if (history.state?.hasFilters) return this.#open(query);
    return this.close();
  }

  #open(query) {
    if (!this.isOpen) {
      if (SHEET.matches) this.dialog.showModal();
      else this.dialog.show();
      document.body.classList.add("has-drawer");
    }
    this.query = query;
    this.json.show();
    return this.#load();
  }

  close() {
    if (this.isOpen) this.dialog.close();
  }

  /** Follows a query that was changed elsewhere, or by the panel itself. */
  show(query) {
    const isSame = this.query && idOf(toScope(query)) === idOf(toScope(this.query));
    this.query = query;
    if (isSame || !this.isOpen) return;
    this.json.show();
    this.#load();
  }

  async #load(limit = FIELDS) {
    this.asking?.abort();
    this.asking = new AbortController();
    const { signal } = this.asking;
    this.dialog.setAttribute("aria-busy", "true");
    const { query } = this;
    const own = [...new Set(query.filters.map((one) => one?.field).filter((field) => typeof field === "string"))].slice(0, FIELDS);
    const count = (filters) => this.#fields({ ...query, filters }, limit, signal);
    try {
      const all = await count([]);
      const counted = query.filters.length ? await count(query.filters) : all;
      const apart = await Promise.all(own.map((field) => count(without(query.filters, field))));
      if (signal.aborted) return;
      const counts = byField(counted);
      own.forEach((field, place) => counts.set(field, byField(apart[place]).get(field)));
      this.#show(all, counts);
    } catch (error) {
      if (signal.aborted) return;
      this.note.textContent = error.message; // such as that a Milvus collection counts no values
      this.list.replaceChildren();
      this.json.element.open = true;
    } finally {
      if (!signal.aborted) this.dialog.removeAttribute("aria-busy");
    }
  }

  #fields(query, limit, signal) {
    const { modalities, pool, filter } = toScope(query);
    const parameters = new URLSearchParams({ limit });
    if (modalities) parameters.set("modalities", modalities.join(","));
    if (pool) parameters.set("pool", pool);
    if (filter) parameters.set("filter", JSON.stringify(filter));
    return ask(`fields?${parameters}`, { signal });
  }

  #show(all, counts) {
    this.note.textContent = all.fields.length ? "" : say("noFields");
    const shown = all.fields.map((facts, place) => {
      const section = this.sections.get(facts.field) ?? new FieldSection(facts.field, place < OPEN_FIELDS, () => this.query, this.on);
      this.sections.set(facts.field, section);
      section.show(facts, counts.get(facts.field));
      return section.element;
    });
    if (all.cursor) shown.push(button(say("moreFields"), "more", () => this.#load(1000), { text: true, className: "act" }));
    // Nothing is moved that is there already: what has the focus keeps it.
    const old = [...this.list.children];
    if (old.length !== shown.length || old.some((one, place) => one !== shown[place])) this.list.replaceChildren(...shown);
  }
}

function byField(page) {
  return new Map(page.fields.map((facts) => [facts.field, facts]));
}

/** One field: its values, most frequent first, and the bounds of its numbers and dates. */
class FieldSection {
  constructor(field, isOpen, queryOf, on) {
    Object.assign(this, { field, queryOf, on, more: null });
    this.kind = make("span", { className: "faint" });
    this.values = make("ul", { className: "values" });
    this.ranges = make("div");
    this.search = make("input", { type: "search", className: "entry", hidden: true, placeholder: say("findValue"), autocomplete: "off", spellcheck: false, dir: "auto",
      "aria-label": `${say("findValue")}: ${field.slice(0, 100)}` });
    this.search.addEventListener("input", () => {
      clearTimeout(this.soon);
      this.soon = setTimeout(() => this.#find(), WHILE_TYPING_MS);
    });
    this.rest = button(say("moreValues"), "more", () => this.#find(), { text: true, className: "quiet" });
    this.element = make("details", { className: "narrow", open: isOpen },
      make("summary", {}, foreign(field.slice(0, 200)), " ", this.kind), this.ranges, this.search, this.values, this.rest);
  }

  /** The query as it is now, which may be newer than the counts that are shown. */
  get query() {
    return this.queryOf();
  }

  show(facts, counted) {
    Object.assign(this, { facts, counted });
    this.kind.textContent = [...Object.entries(facts.types).filter(([, n]) => n).map(([type]) => say(`kind_${type}`)), facts.num_keys.toLocaleString()].join(" · ");
    const hasMore = facts.num_values > facts.values.length;
    this.search.hidden = !(hasMore && facts.types.string);
    this.rest.hidden = !hasMore || this.more !== null;
    this.#showRanges();
    if (this.search.value && !this.search.hidden) return this.#find();
    if (!this.query.filters.some((one) => one?.field === this.field)) this.more = null;
    return this.#showValues();
  }

  #showRanges() {
    const { facts, query } = this;
    const wanted = [];
    if (facts.numbers && facts.numbers.min < facts.numbers.max) wanted.push("number");
    if (facts.dates && facts.dates.min < facts.dates.max) wanted.push("date");
    if (idOf(wanted) !== this.shown) {
      this.shown = idOf(wanted);
      this.inputs = Object.fromEntries(wanted.map((type) => [type, ["from", "to"].map((end) => this.#input(type, end))]));
      this.ranges.replaceChildren(...wanted.map((type) => make("div", { className: "range" }, this.inputs[type][0], make("span", { "aria-hidden": "true" }, "–"), this.inputs[type][1])));
    }
    for (const type of wanted) {
      const { min, max } = type === "number" ? facts.numbers : { min: facts.dates.min.slice(0, 10), max: facts.dates.max.slice(0, 10) };
      const bounds = boundsOf(query.filters, this.field, type === "number" ? "number" : "string");
      const values = type === "number" ? [bounds.gte ?? bounds.gt, bounds.lte ?? bounds.lt] : [dayOf(bounds.gte), dayOf(bounds.lt, -DAY_MS)];
      this.inputs[type].forEach((input, place) => {
        input.title = `${min} – ${max}`;
        if (type === "number") input.placeholder = [min, max][place];
        if (document.activeElement !== input) input.value = values[place] ?? "";
      });
    }
  }

  #input(type, end) {
    const input = make("input", { type, className: "entry", step: type === "number" ? "any" : undefined, "aria-label": `${this.field.slice(0, 100)}: ${say(end)}` });
    input.addEventListener("change", () => this.#bound(type));
    return input;
  }

  #bound(type) {
    const [from, to] = this.inputs[type].map((input) => input.value);
    const bounds = {};
    if (from) bounds.gte = type === "number" ? Number(from) : from;
    if (to && type === "number") bounds.lte = Number(to);
    if (to && type === "date") bounds.lt = dayOf(to, DAY_MS); // all of that day
    this.on.change(bounded(this.query.filters, this.field, type === "number" ? "number" : "string", bounds), {});
  }

  #showValues() {
    const { facts, query } = this;
    const asked = chosen(query.filters, this.field);
    const isLong = facts.numbers && facts.num_values > facts.values.length && !this.more; // bounds say it better
    const shown = new Map();
    const isOfNumbers = facts.values.every(({ value }) => typeof value === "number");
    const told = this.more ?? (isLong ? [] : facts.values);
    for (const { value, num_keys: numKeys } of isOfNumbers ? told.toSorted((one, other) => one.value - other.value) : told) shown.set(idOf(value), [value, numKeys]);
    for (const value of asked) if (!shown.has(idOf(value))) shown.set(idOf(value), [value, null]);
    const counts = new Map(this.counted?.values.map((one) => [idOf(one.value), one.num_keys]));
    const isCut = (this.counted?.num_values ?? 0) > counts.size;
    const old = new Map([...this.values.children].map((one) => [one.dataset.id, one]));
    const items = [...shown].map(([id, [value, numKeys]]) => {
      const item = old.get(id) ?? this.#value(id, value);
      const count = this.more ? numKeys : counts.get(id) ?? (isCut ? null : 0);
      const push = item.firstChild;
      push.setAttribute("aria-pressed", String(asked.includes(value)));
      push.lastChild.textContent = count === null ? "" : count.toLocaleString();
      item.classList.toggle("empty", count === 0);
      return item;
    });
    const there = [...this.values.children];
    if (there.length !== items.length || items.some((one, place) => one !== there[place])) this.values.replaceChildren(...items);
  }

  #value(id, value) {
    const item = make("li", {}, make("button", { type: "button", disabled: !isKept(value), onclick: () => this.on.change(toggled(this.query.filters, this.field, value), {}) },
      foreign(valueText(value).slice(0, 120)), make("span", { className: "score" })));
    item.dataset.id = id;
    return item;
  }

  /** More values than the most frequent ten, and those that begin as was typed. */
  async #find() {
    const prefix = this.search.value;
    const facet = { field: this.field, limit: MORE_VALUES, ...(prefix ? { prefix } : {}) };
    const scope = toScope({ ...this.query, filters: without(this.query.filters, this.field) });
    this.asking?.abort();
    this.asking = new AbortController();
    const { signal } = this.asking;
    try {
      const { facets } = await ask("search", { body: { words: "a", k: 1, include: [], facets: [facet], ...scope }, signal });
      this.more = facets[0].values;
    } catch (error) {
      if (signal.aborted) return;
      this.kind.textContent = error.message;
    }
    this.rest.hidden = true;
    this.#showValues();
  }
}

/** A day, some milliseconds later, as inputs and filters have it; `undefined` for what is no day. */
function dayOf(text, laterMs = 0) {
  if (typeof text !== "string" || !/^\d{4}-\d\d-\d\d$/.test(text)) return undefined;
  return new Date(Date.parse(text) + laterMs).toISOString().slice(0, 10);
}

/** The whole filter as JSON, which the service checks while it is typed. */
class JsonField {
  constructor(queryOf, on) {
    Object.assign(this, { queryOf, on });
    this.verdict = make("p", { className: "verdict", role: "status", id: "filter-verdict" });
    this.field = make("textarea", { className: "entry", rows: 7, spellcheck: false, dir: "ltr", "aria-label": say("filterJson"), "aria-describedby": "filter-verdict", placeholder: '{"field": "price", "lt": 20}' });
    this.field.addEventListener("input", () => {
      clearTimeout(this.soon);
      this.asking?.abort();
      this.soon = setTimeout(() => this.#check(), WHILE_TYPING_MS);
    });
    this.element = make("details", { className: "narrow" }, make("summary", {}, say("filterJson")), this.field, this.verdict);
  }

  show() {
    if (document.activeElement === this.field) return;
    this.field.value = asJson(this.queryOf().filters);
    this.#say("");
  }

  #say(sentence, isWrong = false) {
    this.verdict.textContent = sentence;
    this.verdict.classList.toggle("wrong", isWrong);
    this.field.setAttribute("aria-invalid", String(isWrong));
  }

  async #check() {
    const text = this.field.value;
    if (!text.trim()) {
      this.#say("");
      return this.on.change([], { isTyping: true });
    }
    const fault = faultIn(text);
    if (fault) return this.#say(fault, true);
    const filters = asFilters(JSON.parse(text));
    this.asking = new AbortController();
    const { signal } = this.asking;
    try {
      const { num_keys: n } = await ask("keys/count", { body: toScope({ ...this.queryOf(), filters }), signal });
      this.#say(say("fits", { n }));
      return this.on.change(filters, { isTyping: true });
    } catch (error) {
      return signal.aborted ? undefined : this.#say(error.message, true);
    }
  }
}
