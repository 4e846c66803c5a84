// The service: JSON for words, multipart for pictures; a busy server is asked again.

const RETRIES = 5;

/** A refusal of the service, or that it cannot be reached. */
export class Refused extends Error {
  constructor(message, hint, status) {
    super(message);
    this.hint = hint ?? "";
    this.status = status ?? 0;
  }
}

const wait = (ms, signal) =>
  new Promise((resolve, reject) => {
    const stop = () => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", stop);
      resolve();
    }, ms);
    signal.addEventListener("abort", stop, { once: true });
  });

function request(query, picture) {
  const { text, k, kind, verify, adapt, filters } = query;
  const fields = { text: text || null, k, kind: kind || null, verify: verify || null };
  if (!picture) {
    const body = { ...fields, adapt: adapt ? [adapt] : null, filters };
    for (const name of Object.keys(body)) if (body[name] === null) delete body[name];
    return { body: JSON.stringify(body), headers: { "Content-Type": "application/json" }, path: "" };
  }
  const body = new FormData();
  body.append("image", picture, picture.name || "picture");
  for (const [name, value] of Object.entries(fields)) if (value !== null) body.append(name, value);
  if (adapt) body.append("adapt", adapt);
  if (Object.keys(filters).length) body.append("filters", JSON.stringify(filters));
  return { body, headers: {}, path: "/upload" };
}

async function refusal(response) {
  try {
    const { error, hint } = await response.json();
    return new Refused(String(error), String(hint ?? ""), response.status);
  } catch {
    return new Refused(`the service answered ${response.status}`, "", response.status);
  }
}

/**
 * Ask the service; `what` is "search" or "explain".
 *
 * `onBusy(seconds, attempt, of)` is told before each time it is asked again.
 */
export async function ask(what, query, picture, { signal, onBusy = () => {} }) {
  for (let attempt = 1; ; attempt += 1) {
    const { body, headers, path } = request(query, picture);
    let response;
    try {
      response = await fetch(`/api/${what}${path}`, { method: "POST", body, headers, signal });
    } catch (error) {
      if (signal.aborted) throw error;
      throw new Refused("The service cannot be reached.", "Is it still running?");
    }
    if (response.ok) return response.json();
    if (response.status !== 503 || attempt > RETRIES) throw await refusal(response);
    const told = Number(response.headers.get("Retry-After"));
    const seconds = Math.min(Number.isFinite(told) && told > 0 ? told : 2 ** (attempt - 1), 30);
    onBusy(seconds, attempt, RETRIES);
    await wait(1000 * seconds, signal);
  }
}

/** What is served, or null while that cannot be told. */
export async function info() {
  try {
    const response = await fetch("/api/info");
    return response.ok ? await response.json() : null;
  } catch {
    return null;
  }
}
