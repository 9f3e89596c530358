// The search as a developer sends it: for curl, Python and JavaScript, and where its time went.

import { button, make } from "./elements.js";
import { say } from "./languages.js";
import { copyButton, dialogOf, head } from "./panels.js";
import { ask, hasKey } from "./service.js";

const LANGUAGES = { curl, Python: python, JavaScript: javascript };
const STAGES = ["read", "decode", "queue", "encode", "search", "rerank"];
// Marks that turn the direction of what follows must not make code look like other code.
const HIDDEN = /[\u0080-\u009f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]/g;

/** Shows the last request and what is known of its answer in a dialog, with a switch for exact search: `onExact(isExact)`. */
export function showCode(body, answer, isExact, onExact) {
  const dialog = dialogOf("code");
  const shown = make("pre", { tabIndex: 0 });
  const tabs = make("div", { className: "segments", role: "tablist", "aria-label": say("request") });
  const panel = make("div", { role: "tabpanel", id: "code-panel" }, shown);
  const choose = (name) => {
    shown.textContent = LANGUAGES[name](body);
    panel.setAttribute("aria-label", name);
    for (const tab of tabs.children) {
      tab.setAttribute("aria-selected", String(tab.textContent === name));
      tab.tabIndex = tab.textContent === name ? 0 : -1;
    }
  };
  for (const name of Object.keys(LANGUAGES)) {
    tabs.append(make("button", { type: "button", role: "tab", textContent: name, "aria-controls": "code-panel", onclick: () => choose(name) }));
  }
  tabs.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const all = [...tabs.children];
    const next = all[(all.indexOf(event.target) + step + all.length) % all.length];
    next.click();
    next.focus();
  });
  const explanation = make("pre", { hidden: true, tabIndex: 0 });
  const explains = button(say("explain"), "code", async () => {
    const asked = await ask("search", { body: { ...body, explain: true } }).catch((error) => ({ explanation: error.message }));
    explanation.textContent = JSON.stringify(asked.explanation, null, 2);
    explanation.hidden = false;
  }, { text: true, className: "act" });
  const exact = make("input", { type: "checkbox", checked: isExact, onchange: () => {
    dialog.close();
    onExact(exact.checked);
  } });
  dialog.replaceChildren(
    head(dialog, say("request")),
    make("div", { className: "inside one" }, make("div", { className: "row" }, tabs, copyButton(say("copy"), "copy", () => shown.textContent)), panel,
      make("label", { className: "check" }, exact, say("exactSearch")),
      make("h3", { textContent: say("times") }), times(answer), make("div", { className: "row" }, explains), explanation));
  choose("curl");
  dialog.showModal();
}

function times(answer) {
  const taken = answer.timings_ms;
  const most = Math.max(taken.total, 0.001);
  const rows = STAGES.map((stage) => {
    const share = make("span");
    share.style.width = `${Math.min(100, (100 * (taken[stage] ?? 0)) / most)}%`;
    return make("li", {}, make("span", { className: "name", textContent: say(stage) }),
      make("span", { className: "bar", "aria-hidden": "true" }, share), make("span", { className: "score", textContent: `${(taken[stage] ?? 0).toFixed(1)} ms` }));
  });
  const facts = [`${say("total")} ${taken.total.toFixed(1)} ms`];
  if (answer.cached) facts.push(say("cached"));
  return make("div", {}, make("ul", { className: "why times" }, ...rows), make("p", { className: "faint", textContent: facts.join(", ") }));
}

function address() {
  return new URL("search", document.baseURI).href;
}

/** A request without its pictures, each of which is a file; gives their names, too. */
function withFiles(body, fileAs) {
  const files = [];
  const replaced = (item) => {
    if (item.image === undefined) return item;
    const [, type] = /^data:image\/([a-z]+)/.exec(item.image) ?? [null, "jpg"];
    files.push(`picture-${files.length + 1}.${type.replace("jpeg", "jpg")}`);
    return { ...item, image: fileAs(files.length - 1, files.at(-1)) };
  };
  const asked = body.parts ? { ...body, parts: body.parts.map(replaced) } : replaced(body);
  return { asked, files };
}

function json(value, indent) {
  return JSON.stringify(value, null, indent).replace(HIDDEN, (mark) => `\\u${mark.charCodeAt(0).toString(16).padStart(4, "0")}`);
}

function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

function curl(body) {
  const hasHidden = typeof body.text === "string" && body.text.search(HIDDEN) >= 0;
  const { asked, files } = withFiles(hasHidden ? asParts(body) : body, (place) => ({ file: place }));
  const lines = [`curl -s ${quoted(address())}`];
  if (hasKey()) lines.push('-H "Authorization: Bearer $ANYKEY_API_KEY"'); // never the key itself
  if (!files.length) return [...lines, "-H 'content-type: application/json'", `-d ${quoted(json(asked))}`].join(" \\\n  ");
  lines.push(...files.map((name) => `-F image=@${name}`));
  if (!asked.parts) delete asked.image;
  for (const [name, value] of Object.entries(asked)) {
    lines.push(`--form-string ${quoted(`${name}=${typeof value === "string" ? value : Array.isArray(value) && name !== "parts" ? value.join(",") : json(value)}`)}`);
  }
  return lines.join(" \\\n  ");
}

/** The same with its one item among parts, which are JSON in forms too, where marks can be written out. */
function asParts({ text, image, text_weight, ...others }) {
  const part = { text, image, text_weight };
  return { parts: [part], ...others };
}

function python(body) {
  const { asked, files } = withFiles(body, (_, name) => ({ path: name }));
  const [, index] = /\/indexes\/([^/]+)\/$/.exec(document.baseURI) ?? [];
  const service = document.baseURI.replace(/\/(indexes\/[^/]+\/)?$/, "");
  const literal = (value) => {
    if (value?.path) return `Path(${json(value.path)})`;
    if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
    return { true: "True", false: "False", null: "None" }[String(value)] && typeof value !== "string" ? { true: "True", false: "False", null: "None" }[String(value)] : json(value);
  };
  const named = (fields) => Object.entries(fields).map(([name, value]) => `${name}=${literal(value)}`);
  const fields = Object.entries(asked).map(([name, value]) =>
    `    ${name}=${name === "parts" ? `[\n${value.map((part) => `        Part(${named(part).join(", ")}),\n`).join("")}    ]` : literal(value)},\n`);
  const imports = asked.parts ? "Client, Part" : "Client";
  const before = [...(hasKey() ? ["import os"] : []), ...(files.length ? ["from pathlib import Path"] : [])];
  return [...before, ...(before.length ? [""] : []), `from anykey.client import ${imports}`, "",
    `client = Client(${json(service)}${index ? `, index=${json(index)}` : ""}${hasKey() ? ', api_key=os.environ["ANYKEY_API_KEY"]' : ""})`,
    `answer = client.search(\n${fields.join("")})`, "for hit in answer.hits:", "    print(hit.rank, hit.key, hit.score)"].join("\n");
}

function javascript(body) {
  const { asked, files } = withFiles(body, (place) => `@@${place}@@`);
  const reads = files.map((name, place) => `const picture${place + 1} = await asText(file${place + 1}); // ${name}`);
  const helper = `const asText = (file) => new Promise((resolve) => {
  const reader = new FileReader();
  reader.onload = () => resolve(reader.result);
  reader.readAsDataURL(file);
});`;
  const written = json(asked, 2).replace(/"@@(\d+)@@"/g, (_, place) => `picture${Number(place) + 1}`);
  return [...(files.length ? [helper, ...reads] : []), `const response = await fetch(${json(address())}, {
  method: "POST",
  headers: { "content-type": "application/json"${hasKey() ? ", authorization: `Bearer ${apiKey}`" : ""} },
  body: JSON.stringify(${written.replaceAll("\n", "\n  ")}),
});`, "const { hits } = await response.json();"].join("\n");
}
