// Metadata and pools in a form: rows of names and values that keep their types, and pools as chips.

import { button, foreign, make } from "./elements.js";
import { say } from "./languages.js";

const MOST_ROWS = 12; // of a field, before it scrolls
const ROW_CHARACTERS = 40;
const TYPES = ["text", "number", "truth", "null", "json"];
const NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;
const MOST_NAMES = 200;
let number = 0; // of forms, so that each list of suggestions has a name of its own

/** What a form cannot make values of, and the field that it is about. */
export class WrongEntry extends Error {
  constructor(message, field) {
    super(message);
    this.field = field;
  }
}

/** Rows of names and values. `names` are suggested. */
export class Members {
  constructor(metadata = {}, names = []) {
    number += 1;
    this.list = make("datalist", { id: `names-${number}` }, ...names.slice(0, MOST_NAMES).map((name) => make("option", { value: name })));
    this.rows = make("div", { className: "members", role: "group", "aria-label": say("metadata") });
    this.element = make("div", {}, this.rows, this.list, button(say("addMember"), "more", () => this.#add("", "").name.focus(), { text: true, className: "act" }));
    for (const [name, value] of Object.entries(metadata)) this.#add(name, value);
  }

  /** The metadata as entered; raises `WrongEntry`. */
  read() {
    const found = new Map();
    for (const row of this.rows.children) {
      const { name, type, value } = row.fields;
      const called = name.value.trim() ? name.value : "";
      if (!called && type.value === "text" && !value().value) continue;
      if (!called) throw new WrongEntry(say("nameMissing"), name);
      if (found.has(called)) throw new WrongEntry(say("nameTwice", { name: called.slice(0, 60) }), name);
      found.set(called, valueOf(type.value, value(), called));
    }
    return Object.fromEntries(found); // which makes members of the oddest names, such as __proto__
  }

  #add(called, stored) {
    const row = make("div", { className: "member" });
    const name = make("input", { className: "entry", dir: "auto", value: called, placeholder: say("memberName"), "aria-label": say("memberName") });
    name.setAttribute("list", this.list.id);
    const type = make("select", { "aria-label": say("memberType") }, ...TYPES.map((one) =>
      make("option", { value: one, textContent: say(`type_${one}`), selected: one === typeOf(stored) })));
    let field = fieldOf(typeOf(stored), stored);
    field.was = field.value;
    type.addEventListener("change", () => {
      const next = fieldOf(type.value, converted(field.value, type.value));
      field.replaceWith(next);
      field = next;
    });
    row.fields = { name, type, value: () => field };
    row.append(name, type, field, button(say("removeMember"), "close", () => {
      const near = row.nextElementSibling ?? row.previousElementSibling;
      row.remove();
      (near?.fields.name ?? this.element.querySelector(":scope > .act")).focus();
    }));
    this.rows.append(row);
    return row.fields;
  }
}

/** Pools as chips that can be removed, with a field for another one. */
export class Pools {
  constructor(pools = [], known = []) {
    number += 1;
    this.names = [...pools];
    this.chips = make("span", { className: "chips" });
    const list = make("datalist", { id: `pools-${number}` }, ...known.slice(0, MOST_NAMES).map((name) => make("option", { value: name })));
    this.entry = make("input", { className: "entry", dir: "auto", placeholder: say("addPool"), "aria-label": say("addPool") });
    this.entry.setAttribute("list", list.id);
    this.entry.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || !this.entry.value.trim()) return;
      event.preventDefault(); // or the form would be sent
      this.#take();
    });
    this.element = make("div", { className: "pools", role: "group", "aria-label": say("pools") }, this.chips, this.entry, list);
    this.#show();
  }

  /** The pools, with one that is still being typed. */
  read() {
    this.#take();
    return [...this.names];
  }

  #take() {
    const name = this.entry.value;
    this.entry.value = "";
    if (name.trim() && !this.names.includes(name)) this.names.push(name);
    this.#show();
  }

  #show() {
    this.chips.replaceChildren(...this.names.map((name) => make("span", { className: "chip" }, foreign(name.slice(0, 60), "bdi", { className: "label" }),
      button(`${say("remove")}: ${name.slice(0, 60)}`, "close", () => {
        this.names = this.names.filter((one) => one !== name);
        this.#show();
        this.entry.focus();
      }))));
  }
}

/**
 * The fields of a PATCH that makes one metadata of another: only what changed, so that what a browser cannot hold exactly
 * stays as it is stored. Null within objects cannot be merged; then all are sent.
 */
export function patchOf(before, after) {
  try {
    const metadata = merging(before, after);
    return Object.keys(metadata).length ? { metadata } : {};
  } catch (error) {
    if (!(error instanceof Unmergeable)) throw error;
    requireExact(after, say("metadata"));
    return { metadata: after, overwrite: true };
  }
}

class Unmergeable extends Error {}

function merging(before, after) {
  const gone = Object.keys(before).filter((name) => !Object.hasOwn(after, name)).map((name) => [name, null]);
  const others = Object.entries(after).filter(([name, value]) => !Object.hasOwn(before, name) || !same(before[name], value));
  return Object.fromEntries([...gone, ...others.map(([name, value]) => {
    if (isObject(value)) return [name, merging(Object.hasOwn(before, name) && isObject(before[name]) ? before[name] : {}, value)];
    if (value === null) throw new Unmergeable();
    return [name, value];
  })]);
}

function same(one, other) {
  if (Array.isArray(one) && Array.isArray(other)) return one.length === other.length && one.every((value, place) => same(value, other[place]));
  if (!isObject(one) || !isObject(other)) return Object.is(one, other);
  const names = Object.keys(one);
  return names.length === Object.keys(other).length && names.every((name) => Object.hasOwn(other, name) && same(one[name], other[name]));
}

function isObject(value) {
  return value !== null && typeof value === "object" && !Array.isArray(value);
}

function typeOf(value) {
  return value === null ? "null" : { string: "text", number: "number", boolean: "truth" }[typeof value] ?? "json";
}

function fieldOf(type, value) {
  const named = { "aria-label": say("memberValue"), className: "entry" };
  if (type === "null") return make("input", { ...named, value: "null", disabled: true });
  if (type === "truth") {
    return make("select", named, ...["true", "false"].map((one) => make("option", { value: one, textContent: say(one), selected: one === String(value) })));
  }
  if (type === "number") return make("input", { ...named, inputMode: "decimal", dir: "ltr", value: String(value) });
  const text = type === "json" ? JSON.stringify(value, null, 1) : value;
  const rows = Math.min(MOST_ROWS, Math.max(text.split("\n").length, Math.ceil(text.length / ROW_CHARACTERS), 1));
  return make("textarea", { ...named, rows, dir: type === "json" ? "ltr" : "auto", spellcheck: type === "text", value: text });
}

/** What is in a field, as the other type that was chosen shows it. */
function converted(text, type) {
  if (type === "number") return NUMBER.test(text.trim()) ? text.trim() : "";
  if (type === "truth") return text === "true" || text === "1";
  if (type !== "json") return text;
  try {
    return JSON.parse(text);
  } catch {
    return text;
  }
}

function valueOf(type, field, name) {
  if (type === "null") return null;
  if (type === "truth") return field.value === "true";
  if (type === "text") return field.value;
  const called = name.slice(0, 60);
  try {
    if (type === "number" && !NUMBER.test(field.value.trim())) throw new WrongEntry(say("noNumber", { name: called }), field);
    const value = type === "number" ? Number(field.value) : JSON.parse(field.value);
    if (field.value !== field.was) requireExact(value, called, field);
    return value;
  } catch (error) {
    throw error instanceof WrongEntry ? error : new WrongEntry(say("noJson", { name: called, why: error.message }), field);
  }
}

/** Refuses numbers that a browser changes. */
function requireExact(value, name, field = null) {
  const isKept = (one) => (typeof one === "number" ? Number.isFinite(one) && (!Number.isInteger(one) || Number.isSafeInteger(one))
    : one === null || typeof one !== "object" || Object.values(one).every(isKept));
  if (!isKept(value)) throw new WrongEntry(say("notExact", { name }), field);
}
