// The pictures and the results that are searched with, as chips in the box.

import { button, foreign, icon, make, picture, sized } from "./elements.js";
import { say } from "./languages.js";
import { recall } from "./pictures.js";
import { addressOf, ask } from "./service.js";

/** Shows chips in place of others, and leaves those alone that stay; `known` has what shows stored keys, `change(chips)` is told of each change. */
export function showChips(place, chips, known, change) {
  const old = new Map([...place.children].map((shown) => [shown.dataset.name, shown]));
  place.replaceChildren(...chips.map((chip) => {
    const name = `${chip.isNegative ? "-" : "+"}${chip.key === undefined ? "i" : "k"}${chip.key ?? chip.image}`;
    const shown = old.get(name) ?? drawn(chip, known);
    shown.dataset.name = name;
    const isThis = (one) => one.key === chip.key && one.image === chip.image;
    shown.firstChild.onclick = () => change(chips.map((one) => (isThis(one) ? { ...one, isNegative: !one.isNegative } : one)));
    shown.lastChild.onclick = () => change(chips.filter((one) => !isThis(one)));
    return shown;
  }));
}

function drawn(chip, known) {
  const label = chip.key ?? say("picture");
  const face = make("span", { className: "face" });
  showFace(face, chip, known);
  return make("span", { className: `chip${chip.isNegative ? " negative" : ""}` },
    button(`${say(chip.isNegative ? "negative" : "positive")}: ${label}`, chip.isNegative ? "less" : "more"),
    face, foreign(label.slice(0, 40), "bdi", { className: "label" }), button(`${say("remove")}: ${label}`, "close"));
}

async function showFace(face, { key, image }, known) {
  if (image) return face.append(picture(recall(image)));
  if (!known.has(key)) {
    const found = await ask(addressOf(key)).catch(() => null); // the search says what is wrong with it
    if (found) known.set(key, found);
  }
  const hit = known.get(key);
  const [address] = hit?.payload?.image_urls ?? [];
  face.append(address ? picture(sized(address, 64)) : icon(hit?.modality ?? "text"));
}
