// What was done to a query before a search, or between two: what was asked instead, and its cost.

import { h, plural } from "./dom.js";

/** Adapters that search more than once; an explanation is of one search. */
export const SEVERAL = ["expand", "reason"];

/** The steps of a hit as a section of the panel; null if its query was asked as it came. */
export function before(evidence) {
  const steps = evidence.steps ?? [];
  if (!steps.length) return null;
  const title = "Before the search";
  return h(
    "section",
    { class: "before", "aria-label": title },
    h("h3", { text: title }),
    h("ol", {}, steps.map(step)),
  );
}

function step({ adapter, text, changed, note, tokens, seconds }) {
  const cost = [tokens === null ? null : plural(tokens, "token"), `${seconds.toFixed(2)} s`];
  return h(
    "li",
    {},
    h("b", { text: adapter }),
    changed ? h("q", { text }) : h("span", { text: "left as it was" }),
    note ? h("span", { class: "muted", text: note }) : null,
    h("span", { class: "muted cost", text: cost.filter(Boolean).join(" · ") }),
  );
}
