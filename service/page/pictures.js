// Pictures that are searched with: kept for this session, by a name that links may carry.

const KEPT_AS = "anykey.picture.";
const here = new Map();

/** Keeps a picture, which is a `data:` address, by a name. */
export function keepPicture(name, address) {
  here.set(name, address);
  try {
    sessionStorage.setItem(KEPT_AS + name, address);
  } catch { /* no room left: it is there until the page is loaded anew */ }
}

/** A picture as a `data:` address, or `null` if it is not of this session. */
export function recall(name) {
  if (!here.has(name)) {
    try {
      const kept = sessionStorage.getItem(KEPT_AS + name);
      if (kept?.startsWith("data:")) here.set(name, kept);
    } catch { /* a browser that keeps nothing */ }
  }
  return here.get(name) ?? null;
}
