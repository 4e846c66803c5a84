// What was written, as a tree: nested lists with lines, walked with the arrow keys.

import { bar, h, percent, plural, signed } from "./dom.js";

/**
 * The tree of an explanation.
 *
 * Options: `item` is the id whose way is marked (or null), `thumbnail(id)` gives the address of
 * an item's picture or null, `open(id)` is called for an item that was chosen.
 */
export function drawTree(explanation, options) {
  const root = h("ul", { class: "tree", role: "tree", "aria-label": "What was written, with probabilities" });
  root.append(branch(explanation.tree, 1, { ...options, guided: explanation.guided }));
  const first = root.querySelector('[role="treeitem"]');
  first.tabIndex = 0;
  root.addEventListener("keydown", (event) => walk(root, event));
  root.addEventListener("click", (event) => {
    const item = event.target.closest('[role="treeitem"]');
    if (!item || event.target.closest("button")) return;
    if (event.target.closest(".twist")) toggle(item);
    focusItem(root, item);
  });
  return root;
}

/** Whether the item is named anywhere below a node. */
function leadsTo(node, id) {
  return node.identifiers.some((one) => one.items.includes(id)) || node.children.some((child) => leadsTo(child, id));
}

function branch(node, level, options) {
  const onWay = options.item !== null && leadsTo(node, options.item);
  const inner = [
    ...node.children.map((child) => branch(child, level + 1, options)),
    ...node.identifiers.map((named) => leaf(named, level + 1, options)),
    ...others(node, level + 1),
  ];
  // Names of what many beginnings lead to would hide the beginnings.
  const isOpen = level === 1 || onWay || node.children.length > 0;
  return h(
    "li",
    {
      role: "treeitem",
      tabindex: -1,
      class: onWay ? "on-way" : null,
      "aria-level": level,
      "aria-expanded": inner.length ? String(isOpen) : null,
      "aria-selected": "false",
      "aria-label": level === 1 ? spokenRoot(node) : spoken(node),
    },
    level === 1 ? rootRow(node) : row(node, level, inner.length > 0, options),
    inner.length ? h("ul", { role: "group" }, inner) : null,
  );
}

function rootRow(node) {
  return h(
    "div",
    { class: "row" },
    twist(),
    h("span", { class: "piece start", text: "begin" }),
    h("span", { class: "aside", text: `${plural(node.legal, "legal token")} · ${plural(node.items, "item")}` }),
  );
}

const twist = () => h("span", { class: "twist", "aria-hidden": "true" });

/** A piece as it is shown: the blank before the very first word says nothing. */
const shownText = (text, level) => (level === 2 ? text.trimStart() : text);

function row(node, level, hasInner, options) {
  const chosen = shownText(node.text.slice(0, node.text.length - node.forced.length), level);
  const piece = h(
    "span",
    { class: "piece" },
    chosen || (node.forced ? null : h("span", { class: "end", text: "end" })),
    node.forced
      ? h("span", { class: "forced", text: node.forced, title: `${plural(node.forced_tokens, "token")} without alternative` })
      : null,
  );
  const figures = [
    ["log p", node.logprob],
    ["debias", node.debias],
    ...(options.guided ? [["looking ahead", node.guide]] : []),
  ];
  return h(
    "div",
    { class: "row" },
    hasInner ? twist() : h("span", { class: "twist none", "aria-hidden": "true" }),
    piece,
    h("span", { class: "odds" }, bar(node.probability), h("span", { text: percent(node.probability) })),
    h("span", { class: "aside", text: node.children.length ? `${plural(node.items, "item")} · ${node.legal} ways on` : plural(node.items, "item") }),
    h("span", { class: "items" }, ended(node).map((id) => thing(id, options))),
    h(
      "span",
      { class: "figures" },
      figures.map(([name, value]) => h("span", {}, `${name} `, h("b", { text: signed(value) }))),
      h("span", { class: "sum" }, "score so far ", h("b", { text: signed(node.score) })),
    ),
  );
}

/** The first of the items whose identifiers end at a node. */
const ended = (node) => [...new Set(node.identifiers.flatMap((named) => named.items))].slice(0, 4);

function leaf(named, level, options) {
  const whole = named.text;
  const rest = named.left_open.trim();
  const begun = rest && whole.endsWith(rest) ? whole.slice(0, -rest.length) : rest ? "" : whole;
  const isHit = options.item !== null && named.items.includes(options.item);
  return h(
    "li",
    {
      role: "treeitem",
      tabindex: -1,
      class: isHit ? "leaf on-way" : "leaf",
      "aria-level": level,
      "aria-selected": "false",
      "aria-label": `names ${named.items.join(", ")}: ${whole}${rest ? ", the end left open" : ""}`,
    },
    h(
      "div",
      { class: "row" },
      h("span", { class: "twist none", "aria-hidden": "true" }),
      h("span", { class: "name" }, rest ? h("span", { class: "visually-hidden", text: begun }) : begun, rest ? h("i", { text: rest }) : null),
      h("span", { class: "items" }, named.items.slice(0, 6).map((id) => thing(id, options))),
    ),
  );
}

function thing(id, { thumbnail, open }) {
  const address = thumbnail(id);
  const name = () => h("span", { class: "id", text: id });
  const shown = address
    ? h("img", { src: `${address}?size=160`, alt: id, loading: "lazy", decoding: "async", width: 44, height: 33 })
    : name();
  // What is not among the hits may be a text.
  shown.addEventListener("error", () => shown.replaceWith(name()), { once: true });
  return h("button", { type: "button", class: "thing", tabindex: -1, title: id, on: { click: () => open(id) } }, shown);
}

function others(node, level) {
  const left = node.legal - node.children.length;
  if (!node.children.length && !node.alternatives.length) return [];
  const rows = node.alternatives.map((other) =>
    h(
      "li",
      {
        role: "treeitem",
        tabindex: -1,
        class: "other",
        "aria-level": level,
        "aria-selected": "false",
        "aria-label": `also legal: ${other.text.trim() || "end"}, ${percent(other.probability)}, ${plural(other.items, "item")}`,
      },
      h(
        "div",
        { class: "row" },
        h("span", { class: "twist none", "aria-hidden": "true" }),
        h("span", { class: "piece", text: shownText(other.text, level) || "end" }),
        h("span", { class: "odds" }, bar(other.probability), h("span", { text: percent(other.probability) })),
        h("span", { class: "aside", text: `also legal · ${plural(other.items, "item")}` }),
        h("span", { class: "items" }),
      ),
    ),
  );
  const more = left - node.alternatives.length;
  if (more > 0) {
    const text = `${more} more legal ${more === 1 ? "token" : "tokens"}`;
    rows.push(
      h(
        "li",
        { role: "treeitem", tabindex: -1, class: "other more", "aria-level": level, "aria-selected": "false", "aria-label": text },
        h("div", { class: "row" }, h("span", { class: "twist none", "aria-hidden": "true" }), h("span", { class: "aside", text })),
      ),
    );
  }
  return rows;
}

const spokenRoot = (node) =>
  `Beginning: ${plural(node.legal, "legal token")}, ${plural(node.items, "item")}`;

function spoken(node) {
  const forced = node.forced.trim() ? `, of which ${node.forced.trim()} without alternative` : "";
  return `${node.text.trim() || "end"}${forced}: probability ${percent(node.probability)}, ${plural(node.items, "item")}, score ${signed(node.score)}`;
}

function visible(root) {
  return [...root.querySelectorAll('[role="treeitem"]')].filter(
    (item) => !item.parentElement.closest('[aria-expanded="false"]'),
  );
}

function focusItem(root, item) {
  if (!item) return;
  for (const one of root.querySelectorAll('[role="treeitem"][tabindex="0"]')) {
    one.tabIndex = -1;
    one.setAttribute("aria-selected", "false");
  }
  item.tabIndex = 0;
  item.setAttribute("aria-selected", "true");
  item.focus({ preventScroll: true });
  item.querySelector(".row").scrollIntoView({ block: "nearest" });
}

function toggle(item, wanted) {
  const now = item.getAttribute("aria-expanded");
  if (now === null) return;
  item.setAttribute("aria-expanded", String(wanted ?? now !== "true"));
}

function walk(root, event) {
  const item = event.target.closest('[role="treeitem"]');
  if (!item || event.altKey || event.ctrlKey || event.metaKey) return;
  const shown = visible(root);
  const at = shown.indexOf(item);
  const expanded = item.getAttribute("aria-expanded");
  const button = item.querySelector(":scope > .row button");
  const moves = {
    ArrowDown: () => focusItem(root, shown[at + 1]),
    ArrowUp: () => focusItem(root, shown[at - 1]),
    Home: () => focusItem(root, shown[0]),
    End: () => focusItem(root, shown.at(-1)),
    ArrowRight: () => (expanded === "false" ? toggle(item, true) : expanded && focusItem(root, shown[at + 1])),
    ArrowLeft: () =>
      expanded === "true" ? toggle(item, false) : focusItem(root, item.parentElement.closest('[role="treeitem"]')),
    Enter: () => (button ? button.click() : toggle(item)),
    " ": () => toggle(item),
  };
  if (!Object.hasOwn(moves, event.key)) return;
  event.preventDefault();
  event.stopPropagation();
  moves[event.key]();
}
