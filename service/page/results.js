// The hits as a grid: page after page of one moment of the index, with a line where relevance ends.

import { DRAGGED } from "./box.js";
import { button, foreign, icon, make, number, picture, sized } from "./elements.js";
import { say } from "./languages.js";
import { toBody, usesWords } from "./query.js";
import { Refusal, ask } from "./service.js";

const PAGE = 48;
const DEPTH_WITH_WORDS = 1000; // how far the service joins words with the rest
const SHOWN_CHARACTERS = 400;
const SHORT_CHARACTERS = 80; // of a text that is shown large
const WALKING = new Set(["ArrowDown", "ArrowUp", "ArrowLeft", "ArrowRight", "Home", "End", "m", "l"]);
const AT_CUT = 0.25; // of its bar a hit has that is just still relevant

const scoreOf = (hit) => hit.score ?? hit.words_score ?? 0;

/** Shows the hits of one query after the other in a list; says what was done with one: `on.open(key)`, `on.like(...)`. */
export class Results {
  constructor(list, on) {
    this.list = list;
    this.on = on;
    this.hits = new Map();
    this.maxDepth = 10_000;
    this.maxK = 1000;
    this.query = null;
    this.isDone = true;
    walks(list, (key) => this.hits.get(key), on);
  }

  /** Asks for the first page and shows it in place of what is there; gives the answer. */
  async search(query, signal, onWait) {
    const asked = { query, body: toBody(query), hasCutoff: !usesWords(query), offset: 0, snapshot: null };
    const answer = await this.#ask(asked, signal, onWait);
    const cards = this.#cards();
    Object.assign(this, asked, { signal, isDone: false, isLoading: false, isPastLine: false, lineAt: null, hits: new Map() });
    this.best = answer.hits.length ? scoreOf(answer.hits[0]) : 0;
    this.cut = answer.cutoff?.score ?? null;
    this.shown = document.createDocumentFragment();
    this.#take(answer, cards);
    if (!this.hits.size && !this.isDone) await this.#takeRest(cards, onWait);
    this.list.replaceChildren(this.shown);
    this.list.hidden = false;
    return answer;
  }

  /** Asks for the next page, if there is one and none is under way; says whether there may be another. */
  async more(onWait) {
    if (this.isDone || this.isLoading) return false;
    const { signal } = this;
    this.isLoading = true;
    try {
      const answer = await this.#next(onWait);
      if (signal.aborted) return false;
      this.shown = document.createDocumentFragment();
      this.#take(answer, new Map());
      this.list.append(this.shown);
    } finally {
      if (this.signal === signal) this.isLoading = false;
    }
    return !this.isDone;
  }

  /** What is shown, to be shown again. */
  keep() {
    const { maxDepth: _, maxK: __, ...kept } = this;
    return kept;
  }

  /** Shows what was kept, and goes on from there. */
  restore(kept, signal) {
    const cards = this.#cards();
    this.shown = document.createDocumentFragment();
    Object.assign(this, kept, { signal, isLoading: false, isPastLine: false, hits: new Map() });
    for (const hit of kept.hits.values()) {
      if (this.hits.size === kept.lineAt) this.#drawLine();
      this.#add(hit, cards);
    }
    if (kept.lineAt !== null && !this.isPastLine) this.#drawLine();
    this.list.replaceChildren(this.shown);
    this.list.hidden = false;
  }

  /** Takes all hits away. */
  clear() {
    this.list.replaceChildren();
    this.list.hidden = true;
    Object.assign(this, { hits: new Map(), isDone: true });
  }

  /** The hit before or after one, or `undefined`. */
  beside(key, step) {
    const keys = [...this.hits.keys()];
    return keys[keys.indexOf(key) + step];
  }

  focus(key) {
    [...this.list.querySelectorAll("li[data-key]")].find((card) => card.dataset.key === key)?.querySelector(".open").focus();
  }

  get depth() {
    return usesWords(this.query) ? Math.min(DEPTH_WITH_WORDS, this.maxDepth) : this.maxDepth;
  }

  /** Where nothing is relevant, what is nearest is shown at once, so that the list is never empty in between. */
  async #takeRest(cards, onWait) {
    this.isLoading = true;
    const rest = await this.#ask(this, this.signal, onWait);
    this.isLoading = false;
    this.#take(rest, cards);
  }

  async #next(onWait) {
    try {
      return await this.#ask(this, this.signal, onWait);
    } catch (error) {
      if (!(error instanceof Refusal && error.type === "snapshot_expired")) throw error;
      this.snapshot = null; // goes on at this moment; what is shown already is not shown again
      this.on.note(say("moved"));
      return this.#ask(this, this.signal, onWait);
    }
  }

  #ask({ body, hasCutoff, offset, snapshot }, signal, onWait) {
    const page = { ...body, k: Math.min(PAGE, this.maxK, this.maxDepth - offset), offset };
    if (hasCutoff) page.cutoff = "auto";
    if (snapshot) page.snapshot = snapshot;
    return ask("search", { body: page, signal, onWait }).then((answer) => ({ ...answer, request: page }));
  }

  #take(answer, cards) {
    this.snapshot = answer.snapshot;
    this.offset += answer.hits.length;
    for (const hit of answer.hits) this.#add(hit, cards);
    const isLast = answer.hits.length < answer.request.k;
    if (isLast && this.hasCutoff && answer.cutoff?.num_cut) {
      this.hasCutoff = false; // the next page is what lies below
      this.numRelevant = this.hits.size;
      this.#drawLine();
      return;
    }
    if (!this.isPastLine) this.numRelevant = this.hits.size;
    this.isDone = isLast || this.offset + PAGE > this.depth;
  }

  #drawLine() {
    const sentence = say(this.hits.size ? "line" : "nothingClear");
    this.shown.append(make("li", { className: "line" }, make("span", { textContent: sentence })));
    this.isPastLine = true;
    this.lineAt = this.hits.size;
  }

  #cards() {
    return new Map([...this.list.querySelectorAll("li[data-key]")].map((card) => [card.dataset.key, card]));
  }

  #add(hit, cards) {
    if (this.hits.has(hit.key)) return;
    this.hits.set(hit.key, hit);
    if (this.hits.size === 1 && this.isPastLine) this.best = scoreOf(hit);
    const card = cards.get(hit.key) ?? this.card(hit);
    this.#rate(card, hit);
    card.classList.toggle("weak", this.isPastLine);
    this.shown.append(card);
  }

  #rate(card, hit) {
    const score = scoreOf(hit);
    const floor = this.cut === null || this.cut >= this.best ? 0 : (this.cut - AT_CUT * this.best) / (1 - AT_CUT);
    const share = this.best > floor ? (score - floor) / (this.best - floor) : 1;
    card.querySelector(".bar span").style.width = `${Math.round(100 * Math.min(1, Math.max(0.02, share)))}%`;
    card.querySelector(".score").textContent = number(score);
    const n = this.query.fold && hit.group?.num_folded;
    const similar = n ? say("similar", { n }) : "";
    Object.assign(card.querySelector(".folded"), { textContent: n ? `+${n}` : "", title: similar });
    card.querySelector(".open").setAttribute("aria-label", `${hit.rank}. ${nameOf(hit)}, ${say("score")} ${number(score)}${similar && `, ${similar}`}`);
  }

  /** A card of a key: its picture or its text, what kind it is, and what can be done with it. */
  card(hit) {
    // No button element: Firefox lets nobody drag what is in one.
    const open = make("div", {
      role: "button", tabIndex: 0, className: "open", "aria-label": nameOf(hit), onclick: () => this.on.open(hit.key, hit),
    }, ...facesOf(hit));
    open.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      open.click();
    });
    const below = make("div", { className: "below" },
      make("span", { className: `badge ${hit.modality}`, title: say(`one${capital(hit.modality)}`) }, icon(hit.modality)),
      make("span", { className: "bar", "aria-hidden": "true" }, make("span")),
      make("span", { className: "score" }), make("span", { className: "folded" }),
      button(`${say("more")}: ${hit.key.slice(0, 100)}`, "more", () => this.on.like(hit, false)),
      button(`${say("less")}: ${hit.key.slice(0, 100)}`, "less", () => this.on.like(hit, true)));
    const card = make("li", { className: "card", draggable: true }, open, below);
    card.dataset.key = hit.key;
    card.addEventListener("dragstart", (event) => {
      event.dataTransfer.setData(DRAGGED, hit.key);
      event.dataTransfer.effectAllowed = "copy";
    });
    return card;
  }

}

/** Lets keys go from card to card of a list, and ask for more and for less like one. */
export function walks(list, hitOf, on) {
  list.addEventListener("keydown", async (event) => {
    if (!WALKING.has(event.key) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    (await import("./walking.js")).walk(event.key, list, hitOf, on);
  });
}

function facesOf(hit) {
  const { text, image_urls: addresses = [] } = hit.payload;
  const faces = [];
  if (addresses.length) faces.push(picture(sized(addresses[0], 256), { className: "seen" }));
  if (addresses.length > 1) faces.push(make("span", { className: "count", textContent: `1/${addresses.length}` }));
  if (text) faces.push(foreign(text.slice(0, SHOWN_CHARACTERS), "span", { className: text.length > SHORT_CHARACTERS ? "said" : "said short" }));
  if (!faces.length) faces.push(foreign(hit.key.slice(0, SHOWN_CHARACTERS), "span", { className: "said" }));
  return [make("span", { className: `face ${addresses.length ? (text ? "fused" : "image") : "text"}` }, ...faces)];
}

function nameOf(hit) {
  const kind = say(`one${capital(hit.modality)}`);
  return `${kind}: ${(hit.payload.text || hit.key).slice(0, 160)}`;
}

function capital(word) {
  return word[0].toUpperCase() + word.slice(1);
}
