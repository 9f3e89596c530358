// What is searched for: how the box has it, how a link has it, and how the service is asked.

import { recall } from "./pictures.js";

export const MODALITIES = ["image", "text", "fused"];
const MATCHES = ["meaning", "exact", "both"];
const LESS = -0.5; // the weight of what shall not be like this

/** The empty query. */
export function nothing() {
  return { text: "", chips: [], share: 0.5, match: "meaning", modalities: [], pool: "", filters: [], fold: false, exact: false };
}

export function isEmpty(query) {
  return !query.text.trim() && !query.chips.length;
}

/** Whether text and pictures are there, so that one may count more than the other. */
export function hasBalance(query) {
  return Boolean(query.text.trim()) && query.chips.some((chip) => !chip.isNegative);
}

/** Whether the answer is ranked by written words alone or among others, which has no end of relevance. */
export function usesWords(query) {
  return query.match !== "meaning" && Boolean(query.text.trim());
}

/** A query as the parameters of a link. */
export function toAddress(query) {
  const parameters = new URLSearchParams();
  if (query.text) parameters.set("q", query.text);
  for (const chip of query.chips) {
    const name = chip.key === undefined ? "image" : "like";
    parameters.append(chip.isNegative ? `un${name}` : name, chip.key ?? chip.image);
  }
  if (query.share !== 0.5) parameters.set("share", String(query.share));
  if (query.match !== "meaning") parameters.set("match", query.match);
  if (query.modalities.length) parameters.set("only", query.modalities.join(","));
  if (query.pool) parameters.set("pool", query.pool);
  for (const condition of query.filters) parameters.append("filter", JSON.stringify(condition));
  if (query.fold) parameters.set("fold", "1");
  if (query.exact) parameters.set("exact", "1");
  return parameters.toString();
}

/** The query of a link; what is wrong in it is left out. `lost` counts pictures of other sessions. */
export function fromAddress(search) {
  const query = nothing();
  let lost = 0;
  for (const [name, value] of new URLSearchParams(search)) {
    const isNegative = name.startsWith("un");
    if (name === "q") query.text = value;
    else if (name === "like" || name === "unlike") query.chips.push({ key: value, isNegative });
    else if (name === "image" || name === "unimage") {
      if (recall(value)) query.chips.push({ image: value, isNegative });
      else lost += 1;
    } else if (name === "share" && Number(value) >= 0.05 && Number(value) <= 0.95) query.share = Number(value);
    else if (name === "match" && MATCHES.includes(value)) query.match = value;
    else if (name === "only") query.modalities = value.split(",").filter((one) => MODALITIES.includes(one));
    else if (name === "pool") query.pool = value;
    else if (name === "filter") query.filters.push(conditionOf(value));
    else if (name === "fold") query.fold = value === "1";
    else if (name === "exact") query.exact = value === "1";
  }
  return { query, lost };
}

/** What a link says of a filter; what is no JSON stays as it is, for the service to say what is wrong with it. */
function conditionOf(value) {
  try {
    return JSON.parse(value);
  } catch {
    return value;
  }
}

/** The body of a POST /search, but for which page of the answer is wanted. */
export function toBody(query) {
  const body = { ...searchedFor(query), ...toScope(query) };
  if (query.fold) body.group_by = "duplicates";
  if (query.exact) body.exact = true;
  return body;
}

/** What narrows the search, as requests have it. */
export function toScope({ modalities, pool, filters }) {
  const scope = {};
  if (modalities.length) scope.modalities = modalities;
  if (pool) scope.pool = pool;
  const [filter] = filters;
  if (filters.length) scope.filter = filters.length === 1 && filter?.constructor === Object ? filter : { and: filters };
  return scope;
}

function searchedFor(query) {
  const text = query.text.trim();
  const chips = query.chips.map((chip) => [chip, chip.key === undefined ? { image: recall(chip.image) } : { key: chip.key }]);
  const likes = chips.filter(([chip]) => !chip.isNegative).map(([, item]) => item);
  const unlikes = chips.filter(([chip]) => chip.isNegative).map(([, item]) => ({ ...item, weight: LESS }));
  const parts = query.match === "exact" || !text ? weighed(likes, 1) : withText(text, likes, query.share);
  if (text && query.match !== "meaning") parts.push({ words: text, weight: likes.length ? rounded(2 * query.share) : 1 });
  parts.push(...unlikes);
  if (parts.length > 1) return { parts };
  const { weight, ...one } = parts[0];
  return weight < 0 ? { parts } : one;
}

/** Text and one picture are one item, which the model fuses; more are parts, whose weights the slider divides. */
function withText(text, likes, share) {
  if (likes.length === 1 && likes[0].image) return [{ text, ...likes[0], text_weight: share, weight: 1 }];
  if (!likes.length) return [{ text, weight: 1 }];
  return [{ text, weight: rounded(2 * share) }, ...weighed(likes, 2 * (1 - share))];
}

function weighed(items, together) {
  return items.map((item) => ({ ...item, weight: rounded(together / items.length) }));
}

function rounded(weight) {
  return Math.max(0.01, Math.round(weight * 100) / 100);
}
