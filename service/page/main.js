// The search page: its address is the query, the box changes it, the results show it.

import { Box } from "./box.js";
import { nameAll } from "./elements.js";
import { changeLanguage, language, say } from "./languages.js";
import "./pictures.js"; // for others: what all import is asked for at once here
import { fromAddress, isEmpty, nothing, toAddress } from "./query.js";
import { Results } from "./results.js";
import { ask, askForKey, hasKey, serviceAddress } from "./service.js";
import { welcome } from "./welcome.js";

const WHILE_TYPING_MS = 140;
const BUSY_AFTER_MS = 400;
const MOST_KEPT_HITS = 12_000; // of all earlier queries, but the last one's is kept whatever its number
const LEAST_COUNTED = 1000; // of a query
const at = (id) => document.getElementById(id);

let query = nothing();
let info = null;
let asking = new AbortController();
let soon = 0;
let last = null; // the answer that is shown
const kept = new Map(); // what earlier queries had found, by address, for going back; the newest last
let isWelcomed = false;
let isWaiting = false; // which is what is shown as trouble

document.documentElement.lang = language;
nameAll(say);
at("words").placeholder = say("ask");

const on = {
  open: (key, hit) => {
    history.pushState({ ...history.state, opened: key }, "");
    opening().then((one) => one.open(key, hit));
  },
  like: (hit, isNegative) => {
    box.addKey(hit.key, hit, isNegative);
    at("words").focus({ preventScroll: true });
  },
  note: (sentence) => (last.notes = [...last.notes.filter((one) => one !== sentence), sentence]),
  words: (text) => change({ ...nothing(), text }, {}),
};
const box = new Box(change, trouble, () => panelOfFilters().then((panel) => panel.toggle(query)));
const results = new Results(at("hits"), on);
let details = null; // loaded when something is opened
let filters = null; // and this when the search is narrowed

/** Searches again, when something was stored, patched or deleted. */
function renew() {
  kept.clear();
  isWelcomed = false;
  info = null;
  return search();
}

function opening() {
  details ??= import("./opening.js").then(({ Opening }) => new Opening(results, on.like, renew));
  return details;
}

function panelOfFilters() {
  filters ??= import("./filters.js").then(({ Filters }) => new Filters({
    change: (chosen, how) => {
      change({ ...query, filters: chosen }, how);
      box.show(query);
    },
  }));
  return filters;
}

function followOpened() {
  if (details || history.state?.opened !== undefined) opening().then((one) => one.follow());
}

function followFilters() {
  if (filters || history.state?.hasFilters) panelOfFilters().then((panel) => panel.follow(query));
}

/** Takes a changed query over: into the address, and to the service. */
function change(changed, { isTyping = false, isAsked = false }) {
  const address = toAddress(changed);
  const isNew = address !== toAddress(query);
  if (isNew) keep();
  query = changed;
  if (!isTyping) box.show(query);
  filters?.then((panel) => panel.show(query));
  if (isNew) {
    const state = { isTyping, hasFilters: history.state?.hasFilters };
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

/** Keeps what is shown, with the place that is looked at, and as much of what was before as there is room for. */
function keep() {
  if (!last) return;
  kept.delete(last.address);
  kept.set(last.address, { hits: results.keep(), answer: last, y: scrollY });
  let room = MOST_KEPT_HITS;
  for (const [address, { hits }] of [...kept].reverse()) {
    room -= Math.max(hits.hits.size, LEAST_COUNTED);
    if (room < 0 && address !== last.address) kept.delete(address);
  }
}

/** Shows at once what was kept of the query; says whether something was. */
function showKept() {
  const found = kept.get(toAddress(query));
  if (!found) return false;
  results.restore(found.hits, begun());
  document.body.classList.remove("is-busy");
  show(found.answer);
  scrollTo({ top: found.y });
  return true;
}

function begun() {
  clearTimeout(soon);
  asking.abort();
  asking = new AbortController();
  document.title = query.text.trim() ? `${query.text.trim().slice(0, 60)} - AnyKey` : "AnyKey";
  return asking.signal;
}

function show(answer) {
  last = answer;
  trouble("");
  at("welcome").hidden = true;
  showStatus();
  if (!results.hits.size && results.isDone) import("./nothing.js").then(({ showNothing }) => showNothing(results, change));
  watchEnd();
  at("compared").replaceChildren();
  if (query.exact) {
    const { signal } = asking;
    import("./compare.js").then(({ showDifference }) => showDifference(at("compared"), results, () => change({ ...query, exact: false }, {})))
      .catch((error) => signal.aborted || trouble(error.message));
  }
}

async function search() {
  const signal = begun();
  if (isEmpty(query)) return showWelcome(signal);
  const busy = setTimeout(() => document.body.classList.add("is-busy"), BUSY_AFTER_MS);
  try {
    const answer = await results.search(query, signal, waiting);
    if (signal.aborted) return;
    scrollTo({ top: 0 });
    show({ ...answer, address: toAddress(query) });
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
  const took = say("took", { ms: last.timings_ms.total.toFixed(0) });
  status([number, took, ...(last.cached ? [say("cached")] : []), ...last.notes].join(" · "));
  at("show-code").hidden = false;
}

async function showWelcome(signal) {
  last = null;
  at("compared").replaceChildren();
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

/** The menu of indexes, where there are several. */
async function showMenu() {
  const { indexes, default: usual } = await ask(`${serviceAddress()}indexes`, { isAside: true }).catch(() => ({ indexes: [] })); // not all may be told of them
  if (indexes.length > 1) at("home").after((await import("./indexes.js")).indexMenu(indexes, usual, () => query));
}

function waiting(why) {
  if (!why) return isWaiting && trouble("");
  const name = why.isAway ? "away" : why.type === "not_ready" ? "starting" : "busy";
  trouble(say(name, { n: why.leftS }), why.isAway ? "" : why.message);
  isWaiting = true;
}

function trouble(sentence, because = "") {
  isWaiting = false;
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
  filters?.then((panel) => panel.show(query));
  if (showKept()) return Promise.resolve();
  return search().then(() => {
    if (read.lost) trouble(say("lost"));
  });
}

addEventListener("popstate", () => {
  if (toAddress(fromAddress(location.search).query) !== toAddress(query)) {
    keep();
    goTo();
  }
  followFilters();
  followOpened();
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
at("show-code").onclick = async () => (await import("./code.js")).showCode(last.request, last, query.exact, (exact) => change({ ...query, exact }, {}));
at("add").onclick = async () => (await import("./adding.js")).showAdding(renew);
at("foot-model").onclick = async () => (await import("./facts.js")).showFacts();
at("foot-language").onclick = changeLanguage;
at("foot-key").onclick = async () => {
  const had = hasKey();
  if ((await askForKey()) || hasKey() !== had) location.reload();
};

history.scrollRestoration = "manual"; // hits come later than a browser restores it
const started = goTo();
if (!isEmpty(query)) begin(new AbortController().signal).catch(() => {}); // the search says what is wrong
started.finally(() => {
  document.documentElement.dataset.ready = "1";
  followOpened();
  followFilters();
  showMenu();
  ask(`${serviceAddress()}access`).then((may) => (at("foot-key").hidden = !may.keys_required), () => {});
});
if (matchMedia("(hover: hover)").matches) at("words").focus();
