// The menu of the indexes that are served. What is written and pasted goes along to another one, keys and filters do not.

import { make } from "./elements.js";
import { say } from "./languages.js";
import "./panels.js"; // for what it says
import { nothing, toAddress } from "./query.js";
import { serviceAddress } from "./service.js";

/** A menu of what `GET /indexes` lists. */
export function indexMenu(indexes, usual, queryOf) {
  const [, named] = /\/indexes\/([^/]+)\/$/.exec(document.baseURI) ?? [];
  const current = named ? decodeURIComponent(named) : usual;
  const options = indexes.map(({ name, status }) => make("option", {
    value: name, textContent: status === "ready" ? name : `${name} (${say(status)})`, selected: name === current, disabled: status !== "ready" && name !== current,
  }));
  const menu = make("select", { "aria-label": say("index"), onchange: () => {
    const { text, chips, share, match, fold } = queryOf();
    const query = { ...nothing(), text, chips: chips.filter((chip) => chip.image), share, match, fold };
    const address = toAddress(query);
    location.assign(`${serviceAddress()}indexes/${encodeURIComponent(menu.value)}/${address ? `?${address}` : ""}`);
  } }, ...options);
  return make("label", { className: "choice" }, menu);
}
