// The grid of hits: cards laid out a few at a time, moved through with the arrow keys.

import { bar, h, percent } from "./dom.js";

const AT_ONCE = 60;

/** The hits as a grid in `place`; `open(number)` is called for the card that is chosen. */
export class Results {
  constructor(place, open) {
    this.place = place;
    this.open = open;
    this.cards = [];
    this.current = 0;
    this.drawing = 0;
    place.addEventListener("keydown", (event) => this.#move(event));
    place.addEventListener("click", (event) => {
      const card = event.target.closest(".card");
      if (card) this.#choose(this.cards.indexOf(card));
    });
    place.addEventListener("focusin", (event) => {
      const card = event.target.closest(".card");
      if (card) this.#mark(this.cards.indexOf(card));
    });
  }

  /** Show hits; the first screens at once, the rest in the frames that follow. */
  show(hits) {
    cancelAnimationFrame(this.drawing);
    this.cards = [];
    this.current = 0;
    const list = h("ul", { class: "grid", role: "list" });
    this.place.replaceChildren(list);
    this.place.removeAttribute("aria-busy");
    const draw = () => {
      const begin = this.cards.length;
      const cards = hits.slice(begin, begin + AT_ONCE).map((hit, i) => card(hit, begin + i, hits.length));
      this.cards.push(...cards);
      list.append(...cards.map((one) => h("li", {}, one)));
      if (begin === 0 && cards.length) cards[0].tabIndex = 0;
      if (this.cards.length < hits.length) this.drawing = requestAnimationFrame(draw);
    };
    draw();
  }

  /** Grey cards while an answer is awaited. */
  wait(count) {
    this.clear();
    this.place.setAttribute("aria-busy", "true");
    const blank = () => h("li", {}, h("div", { class: "card blank" }, h("div", { class: "frame" }), h("p"), h("p")));
    const list = h("ul", { class: "grid", "aria-hidden": "true" }, Array.from({ length: count }, blank));
    this.place.replaceChildren(list);
  }

  clear() {
    cancelAnimationFrame(this.drawing);
    this.cards = [];
    this.place.replaceChildren();
    this.place.removeAttribute("aria-busy");
  }

  /** Put the focus on a card. */
  focus(number = this.current) {
    const card = this.cards[number];
    if (!card) return;
    this.#mark(number);
    card.focus();
  }

  #choose(number) {
    this.#mark(number);
    this.open(number);
  }

  #mark(number) {
    if (number === this.current || !this.cards[number]) return;
    if (this.cards[this.current]) this.cards[this.current].tabIndex = -1;
    this.cards[number].tabIndex = 0;
    this.current = number;
  }

  #move(event) {
    if (event.altKey || event.ctrlKey || event.metaKey || !this.cards.length) return;
    const columns = this.#columns();
    const last = this.cards.length - 1;
    const steps = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: columns, ArrowUp: -columns };
    let to;
    if (event.key in steps) to = this.current + steps[event.key];
    else if (event.key === "Home") to = 0;
    else if (event.key === "End") to = last;
    else if (event.key === "PageDown") to = Math.min(last, this.current + 3 * columns);
    else if (event.key === "PageUp") to = Math.max(0, this.current - 3 * columns);
    else return;
    event.preventDefault();
    // From the row above the last, down goes to the last card though it has no neighbour below.
    const row = (number) => Math.floor(number / columns);
    if (event.key === "ArrowDown" && to > last && row(last) > row(this.current)) to = last;
    if (to >= 0 && to <= last) this.focus(to);
  }

  #columns() {
    const list = this.place.querySelector(".grid");
    return getComputedStyle(list).gridTemplateColumns.split(" ").length;
  }
}

/** What an item is called: its title, else what the index knows it by, else its id. */
export const nameOf = (hit) => hit.title || hit.evidence.caption || hit.text || hit.id;

function card(hit, number, of) {
  const name = nameOf(hit);
  const shown = hit.thumbnail
    ? h("img", {
        src: `${hit.thumbnail}?size=320`,
        alt: "",
        loading: number < 8 ? "eager" : "lazy",
        decoding: "async",
        width: 320,
        height: 240,
      })
    : h("span", { class: "excerpt", text: hit.text || hit.evidence.caption || hit.id });
  if (hit.thumbnail) {
    shown.addEventListener("error", () => shown.replaceWith(h("span", { class: "excerpt", text: name })), {
      once: true,
    });
  }
  return h(
    "button",
    { type: "button", class: "card", tabindex: -1, "data-number": number, "aria-label": spoken(hit, name, of) },
    h("span", { class: "frame" }, shown),
    h("span", { class: "caption", text: hit.thumbnail ? name : hit.title || hit.id }),
    h("span", { class: "facts" }, identifier(hit), h("span", { class: "score", text: told(hit) })),
    bar(shareOf(hit)),
  );
}

/** Whether the score tells how rankings agree, and is no probability. */
export const isFused = (hit) => hit.evidence.parts.fused !== undefined;

/** What is shown of a score: a probability wherever the hit was verified. */
const shareOf = (hit) => (isFused(hit) ? (hit.evidence.verification ?? hit.score) : hit.score);

function told(hit) {
  const unverified = isFused(hit) && hit.evidence.verification === null;
  return `${percent(shareOf(hit))}${unverified ? " fused" : ""}`;
}

/** All that a card tells, as one sentence. */
function spoken(hit, name, of) {
  const checked = hit.evidence.verification !== null;
  const how = checked ? "verified" : isFused(hit) ? "fused" : "generation share";
  const led = hit.evidence.filled ? "nothing written led here" : `written: ${written(hit)}`;
  return `${hit.rank} of ${of}: ${name.slice(0, 160)}. ${how} ${percent(shareOf(hit))}; ${led}`;
}

function written(hit) {
  const [best] = hit.evidence.identifiers;
  if (best) return best.text;
  return hit.evidence.clues.slice(0, 2).map((clue) => clue.text).join(", ");
}

function identifier(hit) {
  const [best] = hit.evidence.identifiers;
  if (best) {
    const whole = best.text;
    const begun = best.written !== null && whole.startsWith(best.written) ? best.written : whole;
    return h("span", { class: "written" }, h("b", { text: begun }), whole.slice(begun.length));
  }
  if (hit.evidence.clues.length) return h("span", { class: "written" }, h("b", { text: written(hit) }));
  return h("span", { class: "written muted", text: "filled up" });
}
