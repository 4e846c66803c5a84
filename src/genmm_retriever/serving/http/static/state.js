// What is asked, in the address: ?q=…&k=…&kind=…&verify=…&adapt=…&filters=…&open=…

export const DEFAULT_K = 12;
export const MOST_K = 1000;
const KINDS = ["image", "text"];
const ADAPTERS = ["rewrite", "expand", "reason", "compose"];
const VERIFIERS = ["likelihood", "choice", "yesno", "off"];

/** The state that an address tells; what makes no sense in it is left out. */
export function read(search) {
  const params = new URLSearchParams(search);
  const k = Number(params.get("k"));
  return {
    text: (params.get("q") ?? "").slice(0, 2000),
    k: Number.isInteger(k) && k >= 1 && k <= MOST_K ? k : DEFAULT_K,
    kind: KINDS.includes(params.get("kind")) ? params.get("kind") : "",
    verify: VERIFIERS.includes(params.get("verify")) ? params.get("verify") : "",
    adapt: ADAPTERS.includes(params.get("adapt")) ? params.get("adapt") : "",
    filters: filtersOf(params.get("filters")),
    open: params.get("open"),
    whole: params.has("written"),
  };
}

/** The address of a state. */
export function write(state) {
  const params = new URLSearchParams();
  if (state.text) params.set("q", state.text);
  if (state.k !== DEFAULT_K) params.set("k", state.k);
  if (state.kind) params.set("kind", state.kind);
  if (state.verify) params.set("verify", state.verify);
  if (state.adapt) params.set("adapt", state.adapt);
  if (Object.keys(state.filters).length) params.set("filters", JSON.stringify(state.filters));
  if (state.open !== null) params.set("open", state.open);
  if (state.whole) params.set("written", "");
  const text = params.toString().replace(/written=$/, "written");
  return text ? `?${text}` : location.pathname;
}

/** Whether two states ask the same, whatever of the answer is open. */
export const sameQuery = (a, b) =>
  write({ ...a, open: null, whole: false }) === write({ ...b, open: null, whole: false });

const isScalar = (value) => value === null || ["string", "number", "boolean"].includes(typeof value);

function filtersOf(text) {
  try {
    const found = JSON.parse(text ?? "{}");
    const pairs = Object.entries(found).filter(
      ([, value]) => isScalar(value) || (Array.isArray(value) && value.every(isScalar)),
    );
    return Object.fromEntries(pairs);
  } catch {
    return {};
  }
}

/** What a typed value may mean: a number, true, false or null is itself, and its text. */
export function readings(text) {
  try {
    const found = JSON.parse(text);
    if (typeof found === "string") return [found];
    return isScalar(found) ? [found, text] : [text];
  } catch {
    return [text];
  }
}

/** Filters with more values of a field; a field with several values means one of them. */
export function withFilter(filters, field, values) {
  const known = Object.hasOwn(filters, field) ? [filters[field]].flat() : [];
  const all = [...new Set([...known, ...values])];
  return { ...filters, [field]: all.length === 1 ? all[0] : all };
}

/** Filters without the values of a field that read so. */
export function withoutFilter(filters, field, text) {
  const { [field]: known, ...rest } = filters;
  const left = [known].flat().filter((one) => String(one) !== text);
  if (!left.length) return rest;
  return { ...rest, [field]: left.length === 1 ? left[0] : left };
}

/** Fields and values as they are shown: each reading once. */
export const shownFilters = (filters) =>
  Object.entries(filters).flatMap(([field, values]) =>
    [...new Set([values].flat().map(String))].map((text) => [field, text]),
  );
