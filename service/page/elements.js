// Elements of the page. Text is only ever set as text: nothing here can make markup of it.

import { hasKey } from "./service.js";

const SVG = "http://www.w3.org/2000/svg";
export const DRAWINGS = {
  camera: "M4 8h3l2-3h6l2 3h3v11H4z M12 10a3.5 3.5 0 100 7 3.5 3.5 0 000-7",
  close: "M6 6l12 12M18 6L6 18",
  code: "M9 7l-5 5 5 5M15 7l5 5-5 5",
  filter: "M4 6h16M7 12h10M10 18h4",
  less: "M5 12h14",
  more: "M12 5v14M5 12h14",
  image: "M4 5h16v14H4z M4 16l5-5 4 4 3-3 4 4 M15 8.5h.01",
  text: "M5 7h14M5 12h14M5 17h9",
  fused: "M4 4h16v9H4z M4 11l4-3 4 4 3-2 5 3 M4 17h16M4 21h10",
};

/** An element with properties, attributes (`aria-...`, `role`, ...), listeners (`onclick`) and children. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null) continue;
    if (name in element && !name.includes("-")) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** A picture of what a button does. */
export function icon(name) {
  const drawing = document.createElementNS(SVG, "svg");
  drawing.setAttribute("viewBox", "0 0 24 24");
  drawing.setAttribute("class", "icon");
  drawing.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(SVG, "path");
  path.setAttribute("d", DRAWINGS[name]);
  drawing.append(path);
  return drawing;
}

/** A button that shows an icon and has a name; with `text`, the name is shown, too. */
export function button(name, picture, onclick, { text = false, className = "plain" } = {}) {
  const properties = { type: "button", className, onclick };
  if (!text) Object.assign(properties, { title: name, "aria-label": name });
  return make("button", properties, picture ? icon(picture) : null, text ? make("span", {}, name) : null);
}

/** Puts names, sentences and icons where the page's own markup says which. */
export function nameAll(say) {
  for (const one of document.querySelectorAll("[data-name]")) {
    one.setAttribute("aria-label", say(one.dataset.name));
    if (one.matches("input, button")) one.title = say(one.dataset.name);
  }
  for (const one of document.querySelectorAll("[data-icon]")) one.prepend(icon(one.dataset.icon));
  for (const one of document.querySelectorAll("[data-say]")) one.append(say(one.dataset.say));
}

/** Text of others, kept apart from what is written around it, whichever way it runs. */
export function foreign(text, tag = "bdi", properties = {}) {
  return make(tag, { dir: "auto", textContent: text, ...properties });
}

/** An image that appears when it is near, and is asked for again when the service had no time. */
export function picture(address, properties = {}) {
  let tries = 0;
  const shown = make("img", { loading: "lazy", decoding: "async", draggable: false, alt: "", ...properties });
  shown.onerror = () => {
    tries += 1;
    if (tries > 3) shown.classList.add("broken");
    else setTimeout(() => (shown.src = address), 800 * tries);
  };
  if (hasKey() && !/^(data|blob):/.test(address)) import("./guarded.js").then(({ show }) => show(shown, address));
  else shown.src = address;
  return shown;
}

/** The address of an image in another size. */
export function sized(address, width) {
  return `${address}${address.includes("?") ? "&" : "?"}width=${width}`;
}

/** A score as people write it: three places. */
export function number(score) {
  return score === null || score === undefined ? "" : score.toFixed(3).replace(/^(-?)0\./, "$1.");
}
