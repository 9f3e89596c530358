// All there is to know of one key, and why it matched.

import { button, foreign, icon, make, number, picture, sized } from "./elements.js";
import { say } from "./languages.js";
import { copyButton, tree } from "./panels.js";
import { addressOf, ask, hasKey } from "./service.js";

const MOST_CHARACTERS = 20_000;
const IMAGES_AT_ONCE = 24;
const MOST_DUPLICATES = 12;
const DUPLICATE_SCORE = 0.95; // as near-duplicates are folded

/** A dialog with one key. `on` has `like(hit, isNegative)`, `walk(key, step)`, `changed()` and `closed()`. */
export class Details {
  constructor(dialog, on) {
    this.dialog = dialog;
    this.on = on;
    dialog.addEventListener("close", () => on.closed());
    dialog.addEventListener("click", (event) => {
      if (event.target === dialog) dialog.close();
    });
    dialog.addEventListener("keydown", (event) => {
      if (dialog.querySelector("form") || event.target.closest("input, select, textarea") || event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "ArrowRight") on.walk(this.key, 1);
      else if (event.key === "ArrowLeft") on.walk(this.key, -1);
      else if (event.key === "m" || event.key === "l") this.#like(event.key === "l");
    });
  }

  /** Shows a key. `hit` is what is known of it, and `body` the search that found it, if one did. */
  async open(key, hit, body) {
    this.key = key;
    this.hit = hit;
    this.body = body;
    this.asking?.abort();
    this.asking = new AbortController();
    const { signal } = this.asking;
    if (hit) this.#show(hit);
    if (!this.dialog.open) this.dialog.showModal();
    try {
      const [found, scores] = await Promise.all([
        ask(addressOf(key), { signal }),
        body ? ask("search", { body: this.#asWhy(body, key), signal }).catch(() => null) : null,
      ]);
      if (signal.aborted) return;
      this.hit = { ...found, ...hit, payload: found.payload, pools: found.pools, seq: found.seq };
      this.#show(this.hit, scores?.hits[0]?.part_scores, body);
      this.#offerChanges(signal);
      this.#showDuplicates(signal);
    } catch (error) {
      if (!signal.aborted) this.dialog.replaceChildren(this.#top(key), make("p", { className: "trouble", textContent: error.message }));
    }
  }

  async #offerChanges(signal) {
    const place = this.dialog.querySelector(".curating");
    const details = { found: this.hit, facts: this.dialog.querySelector(".facts"), dialog: this.dialog };
    const show = () => this.open(this.key, this.hit, this.body);
    const on = { show, close: () => this.close(), changed: () => this.on.changed() };
    try {
      const { offerChanges } = await import("./curating.js");
      if (!signal.aborted) await offerChanges(place, details, on);
    } catch (error) {
      place.replaceChildren(make("p", { className: "faint", textContent: error.message }));
    }
  }

  /** Shows what is nearly the same, if there is something. */
  async #showDuplicates(signal) {
    const place = this.dialog.querySelector(".duplicates");
    const body = { key: this.key, k: MOST_DUPLICATES, min_score: DUPLICATE_SCORE };
    const { hits } = await ask("search", { body, signal }).catch(() => ({ hits: [] })); // the rest is shown without it
    if (signal.aborted || !hits.length) return;
    place.append(make("h3", { textContent: say("nearDuplicates") }), make("ul", {}, ...hits.map((hit) => {
      const [address] = hit.payload.image_urls ?? [];
      const opens = button(`${hit.key.slice(0, 100)}, ${number(hit.score)}`, address ? null : hit.modality, () => this.#goTo(hit.key));
      if (address) opens.append(picture(sized(address, 128)));
      return make("li", {}, opens);
    })));
  }

  #goTo(key) {
    history.replaceState({ ...history.state, opened: key }, "");
    this.open(key);
  }

  close() {
    if (this.dialog.open) this.dialog.close();
  }

  #like(isNegative) {
    if (!this.hit) return;
    const { hit } = this;
    this.close();
    this.on.like(hit, isNegative);
  }

  #asWhy(body, key) {
    const { group_by: _, ...asked } = body;
    return { ...asked, k: 1, within: [key], exclude_query_keys: false, include: ["part_scores"] };
  }

  #top(key) {
    return make("header", {},
      foreign(key, "h2", { id: "details-title", className: "key" }),
      button(say("earlier"), "back", () => this.on.walk(this.key, -1)),
      button(say("later"), "next", () => this.on.walk(this.key, 1)),
      button(say("close"), "close", () => this.close()));
  }

  #show(hit, partScores, body) {
    const { text, metadata = {}, image_urls: addresses = [] } = hit.payload;
    const images = make("div", { className: "images" });
    showImages(images, addresses, hit.key);
    const said = text ? foreign(text.slice(0, MOST_CHARACTERS), "p", { className: "whole" }) : null;
    if (text && text.length > MOST_CHARACTERS) {
      const rest = button(say("characters", { n: text.length - MOST_CHARACTERS }), null, () => (said.textContent = text), { text: true, className: "act" });
      said.append(" ", rest);
    }
    const actions = make("div", { className: "actions" },
      button(say("more"), "more", () => this.#like(false), { text: true, className: "act" }),
      button(say("less"), "less", () => this.#like(true), { text: true, className: "act" }),
      copyButton(say("copyKey"), "copy", () => hit.key),
      ...(addresses.length ? linksTo(addresses[0]) : []));
    this.dialog.replaceChildren(this.#top(hit.key),
      make("div", { className: "inside" }, addresses.length ? images : null,
        make("div", { className: "facts" }, said, actions, this.#facts(hit), whyOf(partScores, body),
          make("h3", { textContent: say("metadata") }), Object.keys(metadata).length ? tree(metadata) : make("p", { className: "faint", textContent: say("none") }),
          make("div", { className: "duplicates" }), make("div", { className: "curating" }))),
      ...this.dialog.querySelectorAll("#notices"));
    // What had the focus is gone, and keys would go nowhere.
    if (this.dialog.open && !this.dialog.contains(document.activeElement)) this.dialog.querySelector("header button:last-child").focus();
  }

  #facts(hit) {
    const facts = [[say("modality"), say(`one${hit.modality[0].toUpperCase()}${hit.modality.slice(1)}`)]];
    if (hit.rank) facts.push([say("rank"), String(hit.rank)]);
    if (hit.score !== undefined && hit.score !== null) facts.push([say("score"), hit.score.toFixed(4)]);
    if (hit.pools?.length) facts.push([say("pools"), hit.pools.join(", ")]);
    return make("dl", {}, ...facts.flatMap(([name, value]) => [make("dt", { textContent: name }), foreign(value, "dd")]));
  }
}

/** Images of a key, some at a time. */
function showImages(place, addresses, key, start = 0) {
  const end = start + IMAGES_AT_ONCE;
  place.append(...addresses.slice(start, end).map((address, position) =>
    picture(sized(address, 1024), { alt: `${say("picture")} ${start + position + 1} ${key.slice(0, 100)}` })));
  if (end >= addresses.length) return;
  const more = button(say("moreImages", { n: addresses.length - end }), "image", () => {
    more.remove();
    showImages(place, addresses, key, end);
  }, { text: true, className: "act" });
  place.append(more);
}

/** What copies the address of an image, and what opens it. With an API key the page fetches it, for a link sends none. */
function linksTo(address) {
  const { href } = new URL(address, document.baseURI);
  if (!hasKey()) {
    return [copyButton(say("copyImage"), "link", () => href),
      make("a", { className: "act", href, target: "_blank", rel: "noopener" }, icon("image"), say("openImage"))];
  }
  const opens = button(say("openImage"), "image", async () => {
    const { fetched } = await import("./guarded.js");
    try {
      open(await fetched(href), "_blank", "noopener");
    } catch (error) {
      opens.lastChild.textContent = error.message;
    }
  }, { text: true, className: "act" });
  return [copyButton(say("copyImage"), "link", () => href, say("copiedGuarded")), opens];
}

/** How well the key matches each part of what was searched for. */
function whyOf(scores, body) {
  if (!scores?.length || !body) return null;
  const parts = (body.parts ?? [body]).filter((part) => part.words === undefined);
  const rows = scores.flatMap((score, place) => {
    const part = parts[place] ?? {};
    const less = part.weight < 0 ? `${say("less_")} ` : "";
    const images = [part.image].flat().filter(Boolean);
    if (score.text !== null && score.image !== null) return [[say("whyText"), part.text, score.text], [say("whyImage"), images[0], score.image]];
    if (images.length) return [[less + say("whyImage"), images[0], score.score]];
    if (part.key !== undefined) return [[less ? less + part.key.slice(0, 60) : say("whyKey", { key: part.key.slice(0, 60) }), "", score.score]];
    return [[less + say("whyText"), part.text, score.score]];
  });
  const most = Math.max(...rows.map(([, , score]) => Math.abs(score)), 1e-6);
  return make("div", {}, make("h3", { textContent: say("why") }), make("ul", { className: "why" }, ...rows.map(([name, shown, score]) => {
    const share = make("span");
    share.style.width = `${Math.round((100 * Math.max(0, score)) / most)}%`;
    const isPicture = shown?.startsWith("data:");
    return make("li", {}, foreign(name, "span", { className: "name" }), isPicture ? picture(shown) : foreign((shown ?? "").slice(0, 80), "span", { className: "of" }),
      make("span", { className: "bar", "aria-hidden": "true" }, share), make("span", { className: "score", textContent: number(score) }));
  })));
}
