// What the approximate search misses: its hits beside those of an exact search, of the same moment.

import { button, foreign, make } from "./elements.js";
import { say } from "./languages.js";
import "./panels.js"; // for its style and what it says
import { ask } from "./service.js";

const MOST = 50; // places that are compared
const SHOWN = 20;

/** Shows the difference for the hits that are shown, there and beside each hit; `goBack` leaves exact search. */
export async function showDifference(place, results, goBack) {
  const { signal } = results;
  const { element, marks } = await compare(results, signal);
  if (signal.aborted) return;
  place.replaceChildren(element, button(say("approximately"), null, goBack, { text: true, className: "quiet" }));
  markAll(results.list, marks, signal);
}

/** Says of each hit that is there or comes later where it was, until something else is searched for. */
function markAll(list, marks, signal) {
  const mark = (card) => {
    const sentence = marks.get(card.dataset.key);
    if (sentence && !card.querySelector(".mark")) card.querySelector(".open").append(make("span", { className: "count mark", textContent: sentence }));
  };
  const cards = () => list.querySelectorAll("li[data-key]");
  const watch = new MutationObserver(() => cards().forEach(mark));
  cards().forEach(mark);
  watch.observe(list, { childList: true });
  signal.addEventListener("abort", () => {
    watch.disconnect();
    cards().forEach((card) => card.querySelector(".mark")?.remove());
  });
}

async function compare({ body, snapshot, maxK }, signal) {
  const asked = { ...body, k: Math.min(MOST, maxK), include: [], ...(snapshot ? { snapshot } : {}) };
  const [exact, usual] = await Promise.all([
    ask("search", { body: { ...asked, exact: true }, signal }),
    ask("search", { body: { ...asked, exact: false, explain: true }, signal }),
  ]);
  if (usual.explanation.exact) return { element: make("p", { className: "compared", textContent: say("sameAnyway") }), marks: new Map() };
  const before = rankOf(usual);
  const now = rankOf(exact);
  const came = [...now.keys()].filter((key) => !before.has(key));
  const went = [...before.keys()].filter((key) => !now.has(key));
  const moved = [...now.keys()].filter((key) => before.has(key) && before.get(key) !== now.get(key));
  const found = now.size - came.length;
  const summary = say("compared", {
    recall: now.size ? (found / now.size).toFixed(3) : "1.000", found, n: now.size, moved: moved.length, came: came.length, went: went.length,
  });
  const marks = new Map([...moved.map((key) => [key, say("was", { n: before.get(key) })]), ...came.map((key) => [key, say("new")])]);
  const lines = [
    ...came.map((key) => [say("came"), key, `${now.get(key)}.`]),
    ...went.map((key) => [say("went"), key, `${before.get(key)}.`]),
    ...moved.map((key) => [say("movedHit"), key, `${before.get(key)}. → ${now.get(key)}.`]),
  ];
  const list = make("ul", { className: "why" }, ...lines.slice(0, SHOWN).map(([what, key, places]) =>
    make("li", {}, make("span", { className: "name" }, what), foreign(key.slice(0, 100), "span", { className: "of" }), make("span", { className: "score" }, places))));
  const took = say("tookEach", { exact: exact.timings_ms.search.toFixed(1), usual: usual.timings_ms.search.toFixed(1) });
  return { element: make("details", { className: "compared" }, make("summary", {}, summary), make("p", { className: "faint", textContent: took }), list), marks };
}

function rankOf(answer) {
  return new Map(answer.hits.map((hit, place) => [hit.key, place + 1]));
}
