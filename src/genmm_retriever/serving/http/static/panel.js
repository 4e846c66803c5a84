// The panel: one result in full, how it was written and how it was checked.

import { $, bar, h, icon, percent, plural, signed } from "./dom.js";
import { isFused, nameOf } from "./results.js";
import { before } from "./steps.js";
import { drawTree } from "./tree.js";

const PARTS = {
  likelihood: ["Likelihood", "how much likelier the query is, given this item (nats a token)"],
  text_likelihood: ["Likelihood by caption", "the same, given the words it is known by (nats a token)"],
  contrastive: ["Similarity", "cosine of query and item by the contrastive head"],
  objects: ["Objects seen", "the query's words against what the classifier sees"],
  generation: ["Generation", "score of what was written (nats)"],
  choice: ["Choice", "log-odds that the model picks this one"],
  yes: ["Yes over no", "log-odds that the model says it fits"],
  fused: ["Fused", "rank in all searches for it together, at most 1"],
  bias: ["Bias", "the same for every item"],
};

/** The dialog; it is filled by `showHit` or `showWhole`, and `explain()` brings the explanation. */
export class Panel {
  constructor({ explain, thumbnail, openItem, step, close, filter }) {
    this.dialog = $("panel");
    this.body = $("panel-body");
    this.actions = { explain, thumbnail, openItem, filter };
    this.shown = 0;
    $("close").addEventListener("click", close);
    $("previous").addEventListener("click", () => step(-1));
    $("next").addEventListener("click", () => step(1));
    this.dialog.addEventListener("cancel", (event) => {
      event.preventDefault();
      close();
    });
    this.dialog.addEventListener("click", (event) => {
      if (event.target === this.dialog) close();
    });
    this.dialog.addEventListener("keydown", (event) => {
      if (event.altKey || event.ctrlKey || event.metaKey || event.target.closest('[role="tree"], input, select')) return;
      if (event.key === "ArrowLeft") step(-1);
      else if (event.key === "ArrowRight") step(1);
      else return;
      event.preventDefault();
    });
  }

  get isOpen() {
    return this.dialog.open;
  }

  close() {
    this.shown += 1;
    if (this.dialog.open) this.dialog.close();
    this.body.replaceChildren();
  }

  /** One hit of `count`. */
  showHit(hit, count) {
    $("previous").hidden = $("next").hidden = false;
    $("previous").disabled = hit.rank <= 1;
    $("next").disabled = hit.rank >= count;
    const title = `Result ${hit.rank} of ${count.toLocaleString("en")}`;
    const tree = section("How it was written", "written");
    const check = section("How it was checked", "checked");
    this.#open(title, [figure(hit), facts(hit, this.actions.filter), before(hit.evidence), tree, check].filter(Boolean));
    this.#explain(
      (explanation) => {
        const found = explanation.hits.find((one) => one.hit.id === hit.id);
        tree.fill(this.#written(explanation, hit));
        check.fill(found ? checked(found) : unweighed(hit));
      },
      [tree, check],
    );
  }

  /** The tree of a whole answer. */
  showWhole() {
    $("previous").hidden = $("next").hidden = true;
    const tree = section("What was written", "written");
    this.#open("How this answer was written", [tree]);
    this.#explain((explanation) => tree.fill(this.#written(explanation, null)), [tree]);
  }

  #open(title, content) {
    this.shown += 1;
    $("panel-title").textContent = title;
    this.body.replaceChildren(...content);
    this.body.scrollTop = 0;
    if (!this.dialog.open) this.dialog.showModal();
    $("panel-title").focus({ preventScroll: true });
  }

  async #explain(fill, sections) {
    const mine = this.shown;
    for (const one of sections) one.wait();
    try {
      const explanation = await this.actions.explain((text) => {
        if (mine === this.shown) sections[0].say(text);
      });
      if (mine === this.shown) fill(explanation);
    } catch (error) {
      if (mine !== this.shown || error.name === "AbortError") return;
      const again = h("button", { type: "button", class: "quiet", text: "Try again" });
      again.addEventListener("click", () => this.#explain(fill, sections));
      const [first, ...rest] = sections;
      first.fill([h("p", { role: "alert" }, error.message, error.hint ? ` ${error.hint}` : ""), again]);
      for (const one of rest) one.fill([h("p", { class: "muted", text: "Not known." })]);
    }
  }

  #written(explanation, hit) {
    if (explanation.way === "clues") {
      return hit ? clues(hit) : explanation.hits.map((one) => h("div", {}, h("h4", { text: nameOf(one.hit) }), clues(one.hit)));
    }
    const hits = new Set(explanation.hits.map((one) => one.hit.id));
    const story = [
      `The ${explanation.beams === 1 ? "beginning" : `${explanation.beams} beginnings`} that led to the best of ${plural(explanation.hypotheses, "identifier")} found.`,
      "A percentage is the model's choice among the tokens that still lead to an item; what then follows without alternative is grey, what was left open is slanted.",
      explanation.guided ? "The contrastive head looked ahead to topics." : "",
      explanation.several ? "It is drawn for the query as you put it; the further searches are not." : "",
    ];
    const filled = hit?.evidence.filled
      ? h("p", { text: "Nothing that was written led to this item; it fills up the number asked for." })
      : null;
    const tree = drawTree(explanation, {
      item: hit ? hit.id : null,
      thumbnail: this.actions.thumbnail,
      open: (id) => (hits.has(id) ? this.actions.openItem(id) : null),
    });
    return [h("p", { class: "muted", text: story.join(" ") }), filled, tree];
  }
}

/** A part of the panel that is filled later. */
function section(title, name) {
  const place = h("div", {});
  const element = h("section", { class: name, "aria-label": title }, h("h3", { text: title }), place);
  element.wait = () => {
    element.setAttribute("aria-busy", "true");
    place.replaceChildren(h("div", { class: "lines", "aria-hidden": "true" }, h("p"), h("p"), h("p")));
  };
  element.say = (text) => place.replaceChildren(h("p", { class: "muted", role: "status", text }));
  element.fill = (content) => {
    element.removeAttribute("aria-busy");
    place.replaceChildren(...[content].flat().filter(Boolean));
  };
  return element;
}

function figure(hit) {
  if (!hit.image) return hit.text ? h("blockquote", {}, marked(hit.text, hit)) : h("div", { hidden: true });
  const name = nameOf(hit);
  return h(
    "figure",
    {},
    h("img", { src: hit.image, alt: name, decoding: "async" }),
    h("a", { href: hit.image, target: "_blank", rel: "noopener noreferrer", class: "quiet out" }, "Full size", icon("out")),
  );
}

/** A text with the clues in it marked where they stand. */
function marked(text, hit) {
  if (hit.evidence.caption !== text) return [text];
  const points = [...text];
  const spans = hit.evidence.clues.flatMap((clue) => clue.spans).sort((a, b) => a[0] - b[0]);
  const parts = [];
  let at = 0;
  for (const [start, end] of spans) {
    if (start < at) continue;
    parts.push(points.slice(at, start).join(""), h("mark", { text: points.slice(start, end).join("") }));
    at = end;
  }
  return [...parts, points.slice(at).join("")].filter((part) => part !== "");
}

/** A score and what it is a share of; beside a fused one the probability, where there is one. */
function score(hit) {
  const checked = hit.evidence.verification !== null;
  const big = (share, of) => [h("span", { class: "big" }, h("b", { text: percent(share) }), of)];
  if (!isFused(hit)) return big(hit.score, checked ? " verified" : " of the generation scores");
  if (!checked) return big(hit.score, " of the best rank in every search");
  const rank = `fused: ${percent(hit.score)} of the best rank in every search`;
  return [...big(hit.evidence.verification, " verified"), h("span", { class: "muted", text: ` ${rank}` })];
}

function facts(hit, filter) {
  const { evidence } = hit;
  const rows = [
    ["Score", score(hit)],
    hit.title ? ["Title", hit.title] : null,
    evidence.caption && evidence.caption !== hit.text ? ["Known as", h("span", {}, marked(evidence.caption, hit))] : null,
    hit.text && hit.image ? ["Text", hit.text] : null,
    evidence.identifiers.length
      ? ["Written", h("ul", { class: "plain" }, evidence.identifiers.map((one) => h("li", {}, one.text, h("span", { class: "muted", text: `  log p ${signed(one.logprob)}` }))))]
      : null,
    ["Id", h("code", { text: hit.id })],
    ...Object.entries(hit.metadata).map(([field, values]) => [field, values_(field, values, filter)]),
    evidence.rewritings.length ? ["Asked as", evidence.rewritings.join(" → ")] : null,
  ];
  return h(
    "dl",
    { class: "facts" },
    rows.filter(Boolean).map(([name, value]) => h("div", {}, h("dt", { text: name }), h("dd", {}, value))),
  );
}

/** Metadata values, each a button that filters by it. */
function values_(field, values, filter) {
  return [values].flat().map((value) =>
    h("button", {
      type: "button",
      class: "chip",
      text: String(value),
      title: `Only items whose ${field} is ${value}`,
      on: { click: () => filter(field, [value]) },
    }),
  );
}

function clues(hit) {
  if (!hit.evidence.clues.length) return h("p", { class: "muted", text: "Nothing that was written led here." });
  const most = Math.max(...hit.evidence.clues.map((clue) => clue.score), 1e-9);
  const rows = hit.evidence.clues.map((clue) =>
    h(
      "tr",
      {},
      h("th", { scope: "row" }, h("mark", { text: clue.text })),
      h("td", { text: clue.seen ? "seen in the picture" : clue.given ? "in the query too" : "written" }),
      h("td", { class: "number", text: signed(clue.logprob) }),
      h("td", { class: "number" }, bar(clue.score / most), clue.score.toFixed(1)),
      h("td", { class: "number", text: `${clue.count} in ${clue.documents}` }),
    ),
  );
  const heads = ["Phrase", "Source", "log p", "Adds", "Occurs in passages"];
  return h(
    "div",
    { class: "scroll" },
    h("table", {}, h("thead", {}, h("tr", {}, heads.map((text) => h("th", { scope: "col", text })))), h("tbody", {}, rows)),
  );
}

/** The terms of a hit's log-odds as bars to either side, and what they come to. */
function checked(explained) {
  const { contributions, hit } = explained;
  if (!contributions.length) {
    const text = hit.evidence.verification === null ? "Candidates were not checked." : "Not looked at: it follows those that were, in the order of generation.";
    return h("p", { class: "muted", text });
  }
  const most = Math.max(...contributions.map((one) => Math.abs(one.adds)), 1e-9);
  const rows = contributions.map((one) => {
    const [name, what] = PARTS[one.name] ?? [one.name, ""];
    const detail = one.name === "bias" ? what : `${what}: ${signed(one.value)} × ${one.weight.toFixed(2)}`;
    return h(
      "tr",
      {},
      h("th", { scope: "row" }, name, h("small", { text: detail })),
      h("td", { class: "swing", "aria-hidden": "true" }, h("span", { class: one.adds < 0 ? "less" : "more", vars: { share: Math.abs(one.adds) / most } })),
      h("td", { class: "number", text: signed(one.adds) }),
    );
  });
  const sum = explained.looked_at
    ? `log-odds ${signed(explained.log_odds)}, hence ${percent(hit.score)}`
    : `log-odds ${signed(explained.log_odds)}; kept below those that were looked at: ${percent(hit.score)}`;
  return h(
    "table",
    { class: "terms" },
    h("caption", { class: "visually-hidden", text: "What each part adds to the log-odds" }),
    h("tbody", {}, rows),
    h("tfoot", {}, h("tr", {}, h("th", { scope: "row", text: "Together" }), h("td", { colspan: 2, class: "number", text: sum }))),
  );
}

/** The parts of a hit that the explanation does not hold, without weights. */
function unweighed(hit) {
  const parts = Object.entries(hit.evidence.parts);
  if (!parts.length) return h("p", { class: "muted", text: "Not checked." });
  return h("table", { class: "terms" }, h("tbody", {}, parts.map(([name, value]) =>
    h("tr", {}, h("th", { scope: "row", text: PARTS[name]?.[0] ?? name }), h("td", { class: "number", text: signed(value) })))));
}
