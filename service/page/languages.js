// What the page says: English here, and each other language in a module of its own, which is loaded where it is wanted.

const ENGLISH = {
  add: "Add", ask: "Words, pictures, or both", clear: "Clear", pick: "Add pictures", shoot: "Take a picture", picture: "picture",
  words: "Words", pictures: "Pictures", balance: "Share of the words", chips: "What is searched for",
  positive: "Like this: press for less like this", negative: "Less like this: press for like this", remove: "Remove",
  all: "All", image: "Images", text: "Texts", fused: "Pages", modality: "Kind", pool: "Pool", everywhere: "Whole corpus",
  match: "Match", meaning: "Meaning", exact: "Exact words", both: "Both", fold: "Fold near-duplicates", filters: "Filters",
  oneImage: "image", oneText: "text", oneFused: "page",
  more: "More like this", less: "Less like this",
  score: "Score", similar: "{n} similar",
  line: "Below this line, matches are little better than chance", nothingClear: "Nothing clearly fits. These are the nearest.",
  found: "Shown: {n}", relevant: "Matches: {n}", end: "That is all.", depth: "The service looks no further.",
  moved: "The index has changed meanwhile; more is shown as it is now.", took: "{ms} ms",
  busy: "The service is busy. Trying again in {n} s ...", starting: "The service is not ready. Trying again in {n} s ...",
  away: "The service does not answer. Trying again in {n} s ...",
  lost: "A picture of this link was kept only where it was added.", notPicture: "Only pictures can be added here.",
  drop: "Drop to search with it", code: "As code",
  cached: "from the cache",
  tagline: "Search {n} keys with words, pictures, or both.", tries: "Try",
  hint: "Type, paste or drop a picture, or drag a result into the box. / goes to the box, arrows walk, m finds more like it.",
  model: "Model {name}, {width} numbers", docs: "API", language: "Deutsch", key: "API key",
  hits: "Results",
};
const OTHERS = { de: () => import("./german.js") };
const OF_PANELS = { en: () => import("./panel-english.js"), de: () => import("./panel-german.js") };
const NAMES = ["en", ...Object.keys(OTHERS)];
const KEPT_AS = "anykey.language";

function chosen() {
  try {
    const kept = localStorage.getItem(KEPT_AS);
    if (NAMES.includes(kept)) return kept;
  } catch { /* a browser that keeps nothing */ }
  return navigator.languages.map((one) => one.slice(0, 2)).find((one) => NAMES.includes(one)) || "en";
}

export const language = chosen();
const SENTENCES = language in OTHERS ? (await OTHERS[language]()).sentences : ENGLISH;

/** Adds what panels say. */
export async function addSentences() {
  Object.assign(SENTENCES, (await OF_PANELS[language]()).sentences);
}

/** A sentence in the reader's language, with values in the places that it names. */
export function say(name, values = {}) {
  const sentence = SENTENCES[name] ?? ENGLISH[name] ?? name;
  return sentence.replace(/\{(\w+)\}/g, (place, value) => {
    const put = values[value] ?? place;
    return typeof put === "number" ? put.toLocaleString(language) : put;
  });
}

/** Goes on in the other language. */
export function changeLanguage() {
  try {
    localStorage.setItem(KEPT_AS, NAMES[(NAMES.indexOf(language) + 1) % NAMES.length]);
  } catch { /* a browser that keeps nothing */ }
  location.reload();
}
