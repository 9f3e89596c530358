// Calls of the service that the page came from. Addresses are relative to the page's own, whatever stands before it.

const LONGEST_PAUSE_S = 15;

/** The service's own sentence about why it did not do what it was asked. */
export class Refusal extends Error {
  constructor(status, type, message, retryAfterS) {
    super(message);
    Object.assign(this, { status, type, retryAfterS });
  }
}

/**
 * What the service answers. It is asked again while it is busy, starting or away, until `signal` says otherwise.
 * `onWait` is told why and for how many seconds, and with nothing when an answer has come.
 */
export async function ask(address, { body, signal, onWait = () => {} } = {}) {
  for (let tries = 0; ; tries += 1) {
    let failure;
    try {
      const answer = await once(address, body, signal);
      if (tries) onWait(null);
      return answer;
    } catch (error) {
      if (signal?.aborted) throw error;
      failure = error;
    }
    const isBusy = failure instanceof Refusal && (failure.status === 429 || failure.status === 503);
    if (failure instanceof Refusal && !isBusy && !(failure.status === 504 && tries < 3)) throw failure;
    const grownS = Math.min(LONGEST_PAUSE_S, 2 ** Math.min(tries, 5));
    const pauseS = Math.max(isBusy ? failure.retryAfterS || 1 : 1, isBusy ? 0 : grownS);
    await pause(pauseS, signal, (leftS) => onWait({ isAway: !(failure instanceof Refusal), leftS, type: failure.type, message: failure.message }));
  }
}

async function once(address, body, signal) {
  const options = { signal, headers: { accept: "application/json" } };
  if (body !== undefined) {
    Object.assign(options, { method: "POST", body: JSON.stringify(body) });
    options.headers["content-type"] = "application/json";
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

/** The address of a key. */
export function addressOf(key) {
  return `keys/${encodeURIComponent(key)}`;
}
