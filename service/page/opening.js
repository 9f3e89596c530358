// A hit that is opened: its details, as a step of the history, and the way from one to the next.

import { Details } from "./details.js";
import { toBody } from "./query.js";

/** Opens hits of these results. `like(hit, isNegative)` and `changed()` are told of what is done with one. */
export class Opening {
  constructor(results, like, changed) {
    this.results = results;
    this.details = new Details(document.getElementById("details"), {
      like,
      changed,
      walk: (key, step) => {
        const next = results.beside(key, step);
        if (!next) return;
        history.replaceState({ ...history.state, opened: next }, "");
        this.open(next, results.hits.get(next));
      },
      closed: () => {
        const { opened, ...state } = history.state ?? {};
        if (opened === undefined) return;
        history.replaceState(state, "");
        results.focus(opened);
      },
    });
  }

  /** Opens a key; `hit` is what is known of it. */
  open(key, hit) {
    const body = this.results.hits.has(key) ? toBody(this.results.query) : null;
    this.details.open(key, hit, body);
  }

  /** Shows what the step of the history that was gone to says. */
  follow() {
    const { opened } = history.state ?? {};
    if (opened === undefined) this.details.close();
    else this.open(opened, this.results.hits.get(opened));
  }
}
