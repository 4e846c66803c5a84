// The page: what is asked, in form and address; what comes back, in grid and panel.

import { ask, info, Refused } from "./api.js";
import { $, h, plural } from "./dom.js";
import { Filters } from "./filters.js";
import { Panel } from "./panel.js";
import { Pictures } from "./pictures.js";
import { Results } from "./results.js";
import { DEFAULT_K, read, sameQuery, shownFilters, withFilter, write } from "./state.js";
import { SEVERAL } from "./steps.js";

const EXPLAINED_MOST = 48;
const OPTIONS = ["kind", "verify", "adapt", "k"];

let state = read(location.search);
let answer = null; // what the service said last
let explanation = null; // a promise of how that was written
let asked = new AbortController();

const results = new Results($("results"), (number) => openHit(number));
const panel = new Panel({
  explain,
  thumbnail: (id) => {
    const hit = answer?.hits.find((one) => one.id === id);
    return hit ? hit.thumbnail : `/api/thumbnails/${encodeURIComponent(id)}`;
  },
  openItem: (id) => {
    const number = answer.hits.findIndex((hit) => hit.id === id);
    if (number >= 0) openHit(number, { replace: true });
  },
  step: (by) => {
    const number = answer.hits.findIndex((hit) => hit.id === state.open) + by;
    if (state.open !== null && answer.hits[number]) openHit(number, { replace: true });
  },
  close: closePanel,
  filter: (field, values) => submit({ filters: withFilter(state.filters, field, values) }),
});

const filters = new Filters({ current: () => state.filters, change: (next) => submit({ filters: next }) });
const pictures = new Pictures({
  chosen: (number) => submit({}, number),
  refused: (name) => notice(`${name} is not a picture.`, "Choose a JPEG, PNG, WebP or the like.", null, "alert"),
  isOff: () => panel.isOpen,
});

// ------------------------------------------------------------ asking

const isEmpty = (one) => !one.text.trim() && !pictures.current;

async function search() {
  asked.abort();
  asked = new AbortController();
  const { signal } = asked;
  answer = explanation = null;
  notice(null);
  $("summary").hidden = true;
  document.body.classList.toggle("asked", !isEmpty(state));
  document.title = state.text ? `${state.text} – genmm gallery` : "genmm gallery";
  if (isEmpty(state)) {
    results.clear();
    say("");
    return;
  }
  results.wait(Math.min(state.k, 12));
  say("Searching");
  try {
    const found = await ask("search", state, pictures.current?.file, { signal, onBusy });
    if (signal.aborted) return;
    answer = found;
    show();
  } catch (error) {
    if (signal.aborted) return;
    results.clear();
    refuse(error);
  }
}

function onBusy(seconds, attempt, of) {
  const text = `The server is busy. Asking again in ${plural(Math.ceil(seconds), "second")} (${attempt} of ${of}).`;
  say(text);
  const stop = h("button", { type: "button", class: "quiet", text: "Stop" });
  stop.addEventListener("click", () => {
    asked.abort();
    results.clear();
    notice("Stopped.", "", again());
  });
  notice(text, "", stop);
}

function refuse(error) {
  const known = error instanceof Refused ? error : new Refused("This page failed.", String(error));
  const words = known.message ? known.message[0].toUpperCase() + known.message.slice(1) : "Refused";
  notice(words, known.hint, again(), "alert");
  say("");
}

function again() {
  return h("button", { type: "button", class: "quiet", text: "Try again", on: { click: search } });
}

function show() {
  notice(null);
  const { hits, seconds } = answer;
  const subject = state.text ? `“${state.text.trim()}”` : "the picture";
  $("summary").hidden = hits.length === 0;
  $("count").textContent = `${plural(hits.length, "result")} for ${subject}`;
  $("timing").textContent = `${seconds.total.toFixed(seconds.total < 10 ? 1 : 0)} s`;
  const stages = ["adapt", "encode", "decode", "verify"].filter((name) => seconds[name] !== undefined);
  $("timing").title = stages.map((name) => `${name} ${seconds[name].toFixed(2)} s`).join(" · ");
  say(`${plural(hits.length, "result")} for ${subject}`);
  results.show(hits);
  if (!hits.length) nothing();
  openFromState();
}

function nothing() {
  const narrowed = shownFilters(state.filters).length > 0 || state.kind !== "";
  const widen = h("button", { type: "button", class: "quiet", text: "Search without filters" });
  widen.addEventListener("click", () => submit({ filters: {}, kind: "" }));
  notice(
    narrowed ? "Nothing matches these filters." : "This index holds nothing yet.",
    narrowed ? "" : "Add pictures with: genmm add INDEX FOLDER",
    narrowed ? widen : null,
  );
}

/** How the answer was written; asked for once an answer, again after a failure. */
async function explain(tell) {
  const { signal } = asked;
  if (explanation === null) {
    // Of a query that is asked several times, as it was put by whoever asked.
    const adapt = SEVERAL.includes(state.adapt) ? "" : state.adapt;
    const query = { ...state, adapt, k: Math.min(state.k, EXPLAINED_MOST) };
    const busy = (seconds) => tell(`The server is busy. Asking again in ${plural(Math.ceil(seconds), "second")}.`);
    const several = adapt !== state.adapt;
    const told = ask("explain", query, pictures.current?.file, { signal, onBusy: busy });
    const mine = told.then((found) => ({ ...found, several }));
    explanation = mine;
    mine.catch(() => {
      if (explanation === mine) explanation = null;
    });
  }
  return explanation;
}

// ------------------------------------------------------------ the panel

function openHit(number, { replace = false } = {}) {
  go({ ...state, open: answer.hits[number].id, whole: false }, { replace });
}

function closePanel() {
  // Where opening it made an entry in the history, going back is what closes it.
  if (history.state?.over) history.back();
  else go({ ...state, open: null, whole: false }, { replace: true });
}

function openFromState() {
  const number = state.open === null ? -1 : (answer?.hits.findIndex((hit) => hit.id === state.open) ?? -1);
  if (number >= 0) {
    results.current = number;
    panel.showHit(answer.hits[number], answer.hits.length);
  } else if (state.whole && answer?.hits.length) panel.showWhole();
  else if (panel.isOpen) {
    // Closing gives the focus to the card that opened it; here it goes to the one shown last.
    const last = results.current;
    panel.close();
    results.focus(last);
  }
}

// ------------------------------------------------------------ the address and the form

/** Go to a state: a new entry in the history, unless it is put in place of the last. */
function go(next, { replace = false, number = pictures.number } = {}) {
  const isSame = sameQuery(state, next) && number === pictures.number;
  const over = replace ? Boolean(history.state?.over) : isSame && (next.open !== null || next.whole);
  const entry = { picture: number, over };
  if (replace) history.replaceState(entry, "", write(next));
  else history.pushState(entry, "", write(next));
  arrive(next, number, isSame);
}

function arrive(next, number, isSame) {
  state = next;
  pictures.take(number);
  fillForm();
  if (isSame && answer) openFromState();
  else {
    panel.close();
    search();
  }
}

window.addEventListener("popstate", (event) => {
  const next = read(location.search);
  const number = event.state?.picture ?? null;
  arrive(next, number, sameQuery(state, next) && number === pictures.number);
});

/** Ask what the form says, with changes. */
function submit(changes = {}, number = pictures.number) {
  const next = {
    ...state,
    text: $("q").value,
    kind: $("kind").value,
    verify: $("verify").value,
    adapt: $("adapt").value,
    k: Number($("k").value),
    open: null,
    whole: false,
    ...changes,
  };
  const unchanged = sameQuery(state, next) && number === pictures.number;
  go(next, { number, replace: unchanged });
  if (unchanged && answer) search();
}

function fillForm() {
  if ($("q").value !== state.text) $("q").value = state.text;
  for (const name of ["kind", "verify", "adapt"]) $(name).value = state[name];
  if (![...$("k").options].some((option) => Number(option.value) === state.k)) {
    $("k").append(h("option", { text: state.k }));
  }
  $("k").value = String(state.k);
  filters.show(state.filters);
}

$("search").addEventListener("submit", (event) => {
  event.preventDefault();
  if (filters.isEdited) filters.save();
  else submit();
});
for (const name of OPTIONS) {
  $(name).addEventListener("change", () => {
    if (!isEmpty({ text: $("q").value })) submit();
  });
}
$("home").addEventListener("click", (event) => {
  event.preventDefault();
  go({ ...read(""), k: DEFAULT_K }, { number: null });
  $("q").focus();
});
$("explain").addEventListener("click", () => go({ ...state, open: null, whole: true }));

// ------------------------------------------------------------ keys, notices, the beginning

document.addEventListener("keydown", (event) => {
  if (event.key !== "/" || event.ctrlKey || event.metaKey || event.altKey || panel.isOpen) return;
  if (event.target.closest("input, textarea, select")) return;
  event.preventDefault();
  $("q").focus();
  $("q").select();
});
$("q").addEventListener("keydown", (event) => {
  if (event.key !== "ArrowDown" || !results.cards.length) return;
  event.preventDefault();
  results.focus();
});

function say(text) {
  $("status").textContent = text;
}

function notice(text, hint = "", button = null, role = null) {
  const place = $("notice");
  place.hidden = text === null;
  if (role) place.setAttribute("role", role);
  else place.removeAttribute("role");
  if (text === null) place.replaceChildren();
  else place.replaceChildren(h("p", { text }), ...(hint ? [h("p", { class: "muted", text: hint })] : []), ...(button ? [button] : []));
}

async function tellInfo() {
  const found = await info();
  if (!found) return;
  $("info").textContent = `${plural(found.items, "item")} · ${found.model}`;
}

history.replaceState({ picture: null, over: false }, "", location.href);
fillForm();
pictures.take(null);
tellInfo();
search();
if (!state.text) $("q").focus();
