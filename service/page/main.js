// The search page: its address is the query, the box changes it, the results show it.

import { Box } from "./box.js";
import { button, icon, make } from "./elements.js";
import { changeLanguage, language, say } from "./languages.js";
import { fromAddress, isEmpty, nothing, toAddress, toBody, usesWords } from "./query.js";
import { Results } from "./results.js";
import { ask } from "./service.js";
import { welcome } from "./welcome.js";

const WHILE_TYPING_MS = 140;
const BUSY_AFTER_MS = 400;
const at = (id) => document.getElementById(id);

let query = nothing();
let info = null;
let asking = new AbortController();
let soon = 0;
let last = null; // the answer that is shown
let isWelcomed = false;

document.documentElement.lang = language;

const on = {
  open: (key, hit) => {
    history.pushState({ ...history.state, opened: key }, "");
    open(key, hit);
  },
  like: (hit, isNegative) => {
    box.addKey(hit.key, hit, isNegative);
    at("words").focus({ preventScroll: true });
  },
  note: (sentence) => status(sentence),
  words: (text) => change({ ...nothing(), text }, {}),
};
const box = new Box(change, (sentence) => trouble(sentence));
const results = new Results(at("hits"), on);
let details = null; // loaded when something is opened

const ofDetails = {
  like: on.like,
  walk: (key, step) => {
    const next = results.beside(key, step);
    if (!next) return;
    history.replaceState({ ...history.state, opened: next }, "");
    open(next, results.hits.get(next));
  },
  closed: () => {
    const { opened, ...state } = history.state ?? {};
    if (opened === undefined) return;
    history.replaceState(state, "");
    results.focus(opened);
  },
  changed: renew,
};

/** Searches again, when something was stored, patched or deleted. */
function renew() {
  isWelcomed = false;
  info = null;
  return search();
}

async function open(key, hit) {
  details ??= import("./details.js").then(({ Details }) => new Details(at("details"), ofDetails));
  const body = results.hits.has(key) ? toBody(results.query) : null;
  (await details).open(key, hit, body);
}

/** Takes a changed query over: into the address, and to the service. */
function change(changed, { isTyping = false, isAsked = false }) {
  const address = toAddress(changed);
  const isNew = address !== toAddress(query);
  query = changed;
  if (!isTyping) box.show(query);
  if (isNew) {
    const state = { isTyping };
    const link = `${location.pathname}${address ? `?${address}` : ""}`;
    if (isTyping && history.state?.isTyping) history.replaceState(state, "", link);
    else history.pushState(state, "", link);
  }
  if (isNew || isAsked) searchSoon(isTyping ? WHILE_TYPING_MS : 0);
}

function searchSoon(delayMs) {
  clearTimeout(soon);
  soon = setTimeout(search, delayMs);
}

async function search() {
  asking.abort();
  asking = new AbortController();
  const { signal } = asking;
  document.title = query.text.trim() ? `${query.text.trim().slice(0, 60)} - AnyKey` : "AnyKey";
  if (isEmpty(query)) return showWelcome(signal);
  const busy = setTimeout(() => document.body.classList.add("is-busy"), BUSY_AFTER_MS);
  try {
    const answer = await results.search(query, signal, waiting);
    if (signal.aborted) return;
    trouble("");
    last = answer;
    at("welcome").hidden = true;
    showStatus();
    scrollTo({ top: 0 });
    if (!results.hits.size && results.isDone) showNothing();
    watchEnd();
  } catch (error) {
    if (signal.aborted) return;
    if (!info && error.status === 400) return begin(signal).then(search, () => {}); // it may allow fewer hits a page
    trouble(error.message);
  } finally {
    clearTimeout(busy);
    if (asking.signal === signal) document.body.classList.remove("is-busy");
  }
}

async function more() {
  const { signal } = results;
  if (results.isLoading || results.isDone) return;
  try {
    await results.more(waiting);
    if (signal.aborted) return;
    showStatus();
    at("foot").textContent = results.isDone && results.hits.size ? say(results.offset + 48 > results.depth ? "depth" : "end") : "";
    if (!results.isDone) watchEnd();
  } catch (error) {
    if (!signal.aborted) trouble(error.message);
  }
}

const watch = new IntersectionObserver((entries) => {
  if (entries.some((entry) => entry.isIntersecting)) more();
}, { rootMargin: "1200px" });

/** Asks for more when the end comes near; anew, for the observer tells of changes only. */
function watchEnd() {
  watch.unobserve(at("end"));
  at("foot").textContent = "";
  if (!results.isDone) watch.observe(at("end"));
}

function showStatus() {
  const number = results.numRelevant && results.isPastLine ? say("relevant", { n: results.numRelevant }) : say("found", { n: results.hits.size });
  const facts = [number, say("took", { ms: last.timings_ms.total.toFixed(0) })];
  if (last.cached) facts.push(say("cached"));
  status([facts.join(" · "), ...last.notes].join(" · "));
  at("show-code").hidden = false;
}

function showNothing() {
  const loosened = { ...query, modalities: [], pool: "" };
  const ways = [];
  if (query.modalities.length || query.pool) ways.push(button(say("loosen"), null, () => change(loosened, {}), { text: true, className: "act" }));
  if (usesWords(query)) ways.push(button(say("loosenWords"), null, () => change({ ...query, match: "meaning" }, {}), { text: true, className: "act" }));
  results.list.replaceChildren(make("li", { className: "nothing" }, make("p", { textContent: say("empty") }), ...ways));
  results.list.hidden = false;
}

async function showWelcome(signal) {
  results.clear();
  watchEnd();
  status("");
  trouble("");
  at("show-code").hidden = true;
  document.body.classList.remove("is-busy");
  at("welcome").hidden = false;
  if (isWelcomed) return;
  try {
    await begin(signal);
    isWelcomed = true;
    await welcome(at("welcome"), info, (key) => results.card(key), on);
  } catch (error) {
    if (!signal.aborted) trouble(error.message);
  }
}

/** Asks once what the service is and allows. */
async function begin(signal) {
  if (info) return;
  const found = await ask("info", { signal, onWait: waiting });
  results.maxDepth = found.limits.max_depth;
  results.maxK = found.limits.max_k;
  box.setPools(Object.keys(found.index.pools));
  at("foot-model").textContent = say("model", { name: found.model.name ?? "", width: found.model.width });
  info = found;
}

function waiting(why) {
  if (!why) return trouble("");
  const name = why.isAway ? "away" : why.type === "not_ready" ? "starting" : "busy";
  trouble(say(name, { n: why.leftS }), why.isAway ? "" : why.message);
}

function trouble(sentence, because = "") {
  at("trouble").textContent = because ? `${sentence} (${because})` : sentence;
  at("trouble").hidden = !sentence;
}

function status(sentence) {
  at("status").textContent = sentence;
}

function goTo() {
  const read = fromAddress(location.search);
  query = read.query;
  box.show(query);
  clearTimeout(soon);
  return search().then(() => {
    if (read.lost) trouble(say("lost"));
  });
}

addEventListener("popstate", (event) => {
  if (toAddress(fromAddress(location.search).query) !== toAddress(query)) goTo();
  const opened = event.state?.opened;
  if (opened === undefined) details?.then((one) => one.close());
  else open(opened, results.hits.get(opened));
});

document.addEventListener("keydown", (event) => {
  if (event.key === "Escape" && event.target === at("words")) at("words").blur();
  if (event.key === "ArrowDown" && event.target === at("words")) {
    const first = document.querySelector("main .card .open");
    if (first) {
      event.preventDefault();
      first.focus();
    }
  }
  if (event.key !== "/" || event.target.closest("input, select, textarea, dialog") || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  at("words").select();
  at("words").focus();
});

at("home").addEventListener("click", (event) => {
  if (event.ctrlKey || event.metaKey || event.shiftKey) return;
  event.preventDefault();
  change(nothing(), {});
});
at("home").href = document.baseURI;
at("hits").setAttribute("aria-label", say("hits"));
at("show-code").append(icon("code"), say("code"));
at("add").append(icon("more"), say("add"));
at("add").onclick = async () => (await import("./adding.js")).showAdding(renew);
at("show-code").onclick = async () => (await import("./code.js")).showCode(last.request, last);
at("foot").after(make("footer", { className: "foot" },
  make("span", { id: "foot-model" }), make("a", { href: "docs", textContent: say("docs") }),
  make("button", { type: "button", className: "quiet", textContent: say("language"), onclick: changeLanguage })));

const started = goTo();
if (!isEmpty(query)) begin(new AbortController().signal).catch(() => {}); // the search says what is wrong
started.finally(() => {
  document.documentElement.dataset.ready = "1";
  if (history.state?.opened !== undefined) open(history.state.opened, results.hits.get(history.state.opened));
});
if (matchMedia("(hover: hover)").matches) at("words").focus();
