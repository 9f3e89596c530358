// What to loosen when nothing was found: each thing that narrows, by its name, and how many keys would be left without it.

import { button, foreign, make } from "./elements.js";
import { wordsOf } from "./conditions.js";
import { say } from "./languages.js";
import { toScope, usesWords } from "./query.js";
import { ask } from "./service.js";

const MOST_FILTERS = 8;

/** Says so in place of hits; `change(query, {})` takes a looser query over. */
export function showNothing(results, change) {
  const { query, list, signal } = results;
  if (signal.aborted) return;
  const ways = make("div", { className: "actions" });
  const narrows = query.filters.length + (query.modalities.length ? 1 : 0) + (query.pool ? 1 : 0);
  if (narrows) ways.append(button(say("loosen"), null, () => change({ ...query, modalities: [], pool: "", filters: [] }, {}), { text: true, className: "act" }));
  if (narrows > 1) {
    query.filters.slice(0, MOST_FILTERS).forEach((condition, place) => {
      ways.append(way(wordsOf(condition), { ...query, filters: query.filters.filter((_, at) => at !== place) }, change));
    });
    if (query.modalities.length) ways.append(way(query.modalities.map((one) => say(one)).join(", "), { ...query, modalities: [] }, change));
    if (query.pool) ways.append(way(`${say("pool")} ${query.pool}`, { ...query, pool: "" }, change));
  }
  if (usesWords(query)) ways.append(button(say("loosenWords"), null, () => change({ ...query, match: "meaning" }, {}), { text: true, className: "act" }));
  list.replaceChildren(make("li", { className: "nothing" }, make("p", { textContent: say("empty") }), ways));
}

function way(what, looser, change) {
  const count = make("span", { className: "score" });
  const loosens = button(say("without"), null, () => change(looser, {}), { text: true, className: "act" });
  loosens.append(foreign(what.slice(0, 80), "bdi"), count);
  ask("keys/count", { body: toScope(looser) }).then(({ num_keys: n }) => {
    count.textContent = say("numKeys", { n });
  }, () => {});
  return loosens;
}
