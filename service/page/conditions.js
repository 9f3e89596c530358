// Conditions on metadata: as chips, as what clicks and inputs make of them, and as the JSON that people type.

import { button, foreign, make } from "./elements.js";
import { say } from "./languages.js";
import "./panels.js"; // for what it says

const SIGNS = { gt: ">", gte: "≥", lt: "<", lte: "≤" };
const SHOWN_VALUES = 4;
const SHOWN_CHARACTERS = 60;
const MOST_CHARACTERS = 400;

const isObject = (value) => typeof value === "object" && value !== null && !Array.isArray(value);
const nameOf = (field) => (Array.isArray(field) ? field.join(".") : String(field));

/** A value as people read it. */
export function valueText(value) {
  if (typeof value === "boolean") return say(value ? "yes" : "no");
  return value === "" ? say("emptyText") : String(value);
}

/** A condition in a few words. */
export function wordsOf(condition) {
  if (!isObject(condition)) return JSON.stringify(condition).slice(0, MOST_CHARACTERS);
  const { field, ...rest } = condition;
  const names = Object.keys(rest);
  if (field === undefined || !names.length) {
    return names[0] === "not" ? `${say("not")} ${wordsOf(rest.not)}` : JSON.stringify(condition).slice(0, MOST_CHARACTERS);
  }
  const name = nameOf(field);
  if (names[0] === "eq") return `${name}: ${valueText(rest.eq)}`.slice(0, MOST_CHARACTERS);
  if (names[0] === "in" && Array.isArray(rest.in)) {
    const more = rest.in.length > SHOWN_VALUES ? ", ..." : "";
    return `${name}: ${rest.in.slice(0, SHOWN_VALUES).map(valueText).join(", ")}${more}`.slice(0, MOST_CHARACTERS);
  }
  if (names[0] === "exists") return `${name}: ${say(rest.exists ? "present" : "absent")}`;
  if (names.every((one) => one in SIGNS)) return `${name} ${names.map((one) => `${SIGNS[one]} ${rest[one]}`).join(", ")}`.slice(0, MOST_CHARACTERS);
  return JSON.stringify(condition).slice(0, MOST_CHARACTERS);
}

/** A chip for each condition; its first button turns it round, its last one takes it away. */
export function chipsOf(filters, onChange) {
  return filters.map((condition, place) => {
    const isNegative = isObject(condition) && "not" in condition;
    const words = wordsOf(isNegative ? condition.not : condition);
    const turned = isNegative ? condition.not : { not: condition };
    const put = (one) => onChange(filters.map((other, at) => (at === place ? one : other)));
    const name = `${isNegative ? `${say("not")} ` : ""}${words}`;
    return make("span", { className: `chip${isNegative ? " negative" : ""}` },
      isObject(condition) ? button(`${say(isNegative ? "filterNot" : "filterOnly")}: ${name}`, isNegative ? "less" : "more", () => put(turned)) : null,
      foreign(words.slice(0, SHOWN_CHARACTERS), "bdi", { className: "label", title: name }),
      button(`${say("remove")}: ${name}`, "close", () => onChange(filters.filter((_, at) => at !== place))));
  });
}

const isOn = (condition, field) => isObject(condition) && JSON.stringify(condition.field) === JSON.stringify(field);

/** The values of a field that are asked for. */
export function chosen(filters, field) {
  const condition = filters.find((one) => isOn(one, field) && ("eq" in one || Array.isArray(one.in)));
  return condition ? condition.in ?? [condition.eq] : [];
}

/** The filters with a value asked for that was not, or the other way round. */
export function toggled(filters, field, value) {
  const before = chosen(filters, field);
  const after = before.includes(value) ? before.filter((one) => one !== value) : [...before, value];
  return replaced(filters, (one) => isOn(one, field) && ("eq" in one || "in" in one),
    after.length ? { field, ...(after.length === 1 ? { eq: after[0] } : { in: after }) } : null);
}

const isRange = (one, field, type) => isOn(one, field) && Object.keys(one).every((name) => name === "field" || (name in SIGNS && typeof one[name] === type));

/** The bounds of a field, of numbers (`"number"`) or of strings. */
export function boundsOf(filters, field, type) {
  return filters.find((one) => isRange(one, field, type) && Object.keys(one).length > 1) ?? {};
}

/** The filters with these bounds of a field in place of others; with none, without. */
export function bounded(filters, field, type, bounds) {
  return replaced(filters, (one) => isRange(one, field, type), Object.keys(bounds).length ? { field, ...bounds } : null);
}

/** Filters without those on a field, which its own counts do not look at. */
export function without(filters, field) {
  return filters.filter((one) => !isOn(one, field));
}

function replaced(filters, isOld, condition) {
  const place = filters.findIndex(isOld);
  const others = filters.filter((one) => !isOld(one));
  if (!condition) return others;
  return place < 0 ? [...others, condition] : others.toSpliced(place, 0, condition);
}

/** Filters as one, as people write it. */
export function asJson(filters) {
  if (!filters.length) return "";
  return JSON.stringify(filters.length === 1 ? filters[0] : { and: filters }, null, 2);
}

/** One filter as those whose chips can be taken away one by one. */
export function asFilters(filter) {
  const isAll = isObject(filter) && Array.isArray(filter.and) && filter.and.length && Object.keys(filter).length === 1;
  return isAll ? filter.and : [filter];
}

const TOKEN = /([{}[\],:])|("(?:[^"\\\u0000-\u001f]|\\(?:["\\/bfnrt]|u[0-9a-fA-F]{4}))*")|(-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?)(?![\w.])|(true|false|null)(?!\w)/y;

/**
 * Where a text stops being JSON that can be sent as it is, and what was expected there: a sentence, or `null`.
 * Browsers do not all tell the place. Names that come twice and numbers that JavaScript would change are told, too.
 */
export function faultIn(text) {
  const open = []; // the names of each object that is open, and `null` for a list
  let state = "value";
  let place = 0;
  for (;;) {
    while (" \t\n\r".includes(text[place]) && place < text.length) place += 1;
    if (place === text.length) return state === "end" ? null : told(text, place, state);
    TOKEN.lastIndex = place;
    const token = TOKEN.exec(text);
    const after = token ? following(state, token, open) : null;
    if (!after || after.fault) return told(text, place, after?.fault ?? state);
    state = after;
    place = TOKEN.lastIndex;
  }
}

/** What has to come after a token, or `null` if it must not stand there. */
function following(state, [all, sign, string, number], open) {
  const behind = () => (open.length ? "comma" : "end");
  const close = () => {
    open.pop();
    return behind();
  };
  if (state === "value" || state === "first") {
    if (sign === "{" || sign === "[") {
      open.push(sign === "{" ? new Set() : null);
      return sign === "{" ? "firstName" : "first";
    }
    if (sign === "]" && state === "first") return close();
    if (number !== undefined && !isKept(number)) return { fault: "number" };
    return sign ? null : behind();
  }
  if (state === "name" || state === "firstName") {
    if (sign === "}" && state === "firstName") return close();
    if (string === undefined) return null;
    const name = JSON.parse(string);
    if (open.at(-1).has(name)) return { fault: "twice" };
    open.at(-1).add(name);
    return "colon";
  }
  if (state === "colon") return all === ":" ? "value" : null;
  if (state !== "comma") return null;
  if (sign === ",") return open.at(-1) ? "name" : "value";
  return sign === (open.at(-1) ? "}" : "]") ? close() : null;
}

function isKept(number) {
  return /[.eE]/.test(number) ? Number.isFinite(Number(number)) : Number.isSafeInteger(Number(number));
}

function told(text, place, expected) {
  const before = text.slice(0, place).split("\n");
  const what = say(`json_${expected.replace("first", "").toLowerCase() || "value"}`);
  return say("jsonAt", { line: before.length, column: [...before.at(-1)].length + 1, what });
}
