// What is shown before anything is searched for: what the index holds, and what might be asked.

import { button, foreign, make } from "./elements.js";
import { language, say } from "./languages.js";
import { MODALITIES } from "./query.js";
import { walks } from "./results.js";
import { ask } from "./service.js";

const SAMPLE = 12;
const MOST_EXAMPLES = 5;
const EXAMPLE_CHARACTERS = 80;

/** Fills the section, once; `card` makes a card of a key, `on.words(text)` searches for an example. */
export async function welcome(section, info, card, on) {
  const { num_keys: numKeys, modalities } = info.index;
  const counts = MODALITIES.filter((one) => modalities[one]).map((one) => `${say(one)}: ${modalities[one].toLocaleString(language)}`);
  const examples = make("p", { className: "examples" });
  section.replaceChildren(
    make("h2", { className: "tagline", textContent: say("tagline", { n: numKeys }) }),
    make("p", { className: "counts", textContent: counts.join(" · ") }),
    examples, make("p", { className: "hint", textContent: say("hint") }));
  const present = MODALITIES.filter((one) => modalities[one]);
  const pages = await Promise.all(present.map((one) => ask(`keys?limit=${SAMPLE}&modalities=${one}`).catch(() => ({ keys: [] }))));
  showExamples(examples, pages.flatMap((page) => page.keys), on);
  present.forEach((modality, place) => {
    const { keys } = pages[place];
    if (!keys.length) return;
    const list = make("ul", { className: "grid", "aria-label": say(modality) }, ...keys.map(card));
    walks(list, (key) => keys.find((one) => one.key === key), on);
    section.append(make("h3", { textContent: `${say(modality)}` }), list);
  });
}

/** Short texts of the corpus itself, which surely find something. */
function showExamples(shown, keys, on) {
  const texts = new Set(keys.map((one) => one.payload.text?.trim()).filter((text) => text && text.length <= EXAMPLE_CHARACTERS));
  const examples = [...texts].slice(0, MOST_EXAMPLES);
  if (!examples.length) return;
  shown.append(make("span", { textContent: say("tries") }));
  for (const text of examples) {
    const asks = button(text, null, () => on.words(text), { className: "act example" });
    asks.append(foreign(text));
    asks.removeAttribute("title");
    shown.append(asks);
  }
}
