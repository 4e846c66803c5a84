// Elements from plain data. Text becomes text nodes, never markup.

export const $ = (id) => document.getElementById(id);

/** An element; `text`, `class`, `on` (listeners), `vars` (CSS variables), else attributes. */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "text") element.textContent = value;
    else if (name === "class") element.className = value;
    else if (name === "on") {
      for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    } else if (name === "vars") {
      for (const [key, one] of Object.entries(value)) element.style.setProperty(`--${key}`, one);
    } else element.setAttribute(name, value === true ? "" : String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

const SVG = "http://www.w3.org/2000/svg";

/** One of the page's icons. */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS(SVG, "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

/** A probability as people read it. */
export function percent(p) {
  if (!Number.isFinite(p)) return "–";
  if (p > 0 && p < 0.001) return "<0.1%";
  if (p < 0.0995 && p > 0) return `${(100 * p).toFixed(1)}%`;
  if (p < 1 && p > 0.9945) return ">99%";
  return `${Math.round(100 * p)}%`;
}

/** A number with its sign, in nats or log-odds. */
export function signed(x, digits = 2) {
  const rounded = Math.abs(x).toFixed(digits);
  const zero = Number(rounded) === 0;
  return zero ? rounded : `${x < 0 ? "−" : "+"}${rounded}`;
}

export const plural = (n, one, many = `${one}s`) => `${n.toLocaleString("en")} ${n === 1 ? one : many}`;

/** A bar that shows a share between 0 and 1; what it says stands beside it in words. */
export const bar = (share) =>
  h("span", { class: "share", "aria-hidden": "true", vars: { share: Math.max(0, Math.min(1, share)) } });
