// Calls of the service that the page came from. Addresses are relative to the page's own, whatever stands before it.

const LONGEST_PAUSE_S = 15;
const KEPT_AS = "anykey.key";

/** The service's own sentence about why it did not do what it was asked. */
export class Refusal extends Error {
  constructor(status, type, message, retryAfterS) {
    super(message);
    Object.assign(this, { status, type, retryAfterS });
  }
}

let apiKey = null; // kept for the session of the tab, and nowhere else
try {
  apiKey = sessionStorage.getItem(KEPT_AS);
} catch { /* a browser that keeps nothing */ }
let asked = null; // the dialog that asks for a key, while it is open

/** Whether requests carry a key, which elements such as `<img>` cannot. */
export function hasKey() {
  return apiKey !== null;
}

/** Takes a key from now on; `null` forgets it. */
export function useKey(key) {
  apiKey = key;
  try {
    if (key === null) sessionStorage.removeItem(KEPT_AS);
    else sessionStorage.setItem(KEPT_AS, key);
  } catch { /* it is known until the page is loaded anew */ }
}

/** The headers that say who asks. */
export function authorization() {
  return apiKey === null ? {} : { authorization: `Bearer ${apiKey}` };
}

/** Asks for a key, once for all who wait for it; says whether there is one now. */
export function askForKey(sentence) {
  asked ??= import("./key.js").then((module) => module.askForKey(sentence)).finally(() => (asked = null));
  return asked;
}

/**
 * What the service answers. It is asked again while it is busy, starting or away, until `signal` says otherwise, and once
 * there is a key where it wants one, unless it is asked `isAside`. `onWait` is told why and for how many seconds, and with nothing when an answer has come.
 */
export async function ask(address, { onWait = () => {}, isAside = false, ...request } = {}) {
  const { signal } = request;
  for (let tries = 0; ; tries += 1) {
    let failure;
    const sentKey = apiKey;
    try {
      const answer = await once(address, request);
      if (tries) onWait(null);
      return answer;
    } catch (error) {
      if (signal?.aborted) throw error;
      failure = error;
    }
    if (failure.status === 401 && !isAside && (sentKey !== apiKey || (await askForKey(failure.message)))) continue;
    const isBusy = failure instanceof Refusal && (failure.status === 429 || failure.status === 503);
    if (failure instanceof Refusal && !isBusy && !(failure.status === 504 && tries < 3)) throw failure;
    const grownS = Math.min(LONGEST_PAUSE_S, 2 ** Math.min(tries, 5));
    const pauseS = Math.max(isBusy ? failure.retryAfterS || 1 : 1, isBusy ? 0 : grownS);
    await pause(pauseS, signal, (leftS) => onWait({ isAway: !(failure instanceof Refusal), leftS, type: failure.type, message: failure.message }));
  }
}

async function once(address, { body, method = body === undefined ? "GET" : "POST", headers = {}, signal }) {
  const options = { method, signal, headers: { accept: "application/json", ...authorization(), ...headers } };
  if (body !== undefined) {
    options.body = JSON.stringify(body);
    options.headers["content-type"] ??= "application/json";
  }
  const response = await fetch(new URL(address, document.baseURI), options);
  if (response.ok) return response.json();
  const answer = await response.json().catch(() => null);
  const { type = "internal", message = `${response.status} ${response.statusText}` } = answer?.error ?? {};
  const retryAfterS = Number(response.headers.get("retry-after")) || 0;
  // Proxies answer with these while the service behind them is away.
  if (!answer && (response.status === 502 || response.status === 503 || response.status === 504)) throw new Error(message);
  throw new Refusal(response.status, type, message, retryAfterS);
}

function pause(seconds, signal, tell) {
  return new Promise((resolve, reject) => {
    let leftS = Math.ceil(seconds);
    tell(leftS);
    const ticking = setInterval(() => {
      leftS -= 1;
      if (leftS > 0) return tell(leftS);
      clearInterval(ticking);
      resolve();
    }, 1000);
    signal?.addEventListener("abort", () => {
      clearInterval(ticking);
      reject(signal.reason);
    }, { once: true });
  });
}

/** The address of the service, whichever of its indexes the page is of. */
export function serviceAddress() {
  return document.baseURI.replace(/indexes\/[^/]+\/$/, "");
}

/** The address of a key. */
export function addressOf(key) {
  return `keys/${encodeURIComponent(key)}`;
}
