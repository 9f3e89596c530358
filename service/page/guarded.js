// Images of a service that wants a key. `<img>` sends none, so the page fetches them, when they come near, and shows what came.

import { authorization } from "./service.js";

const TRIES = 4;
const wanted = new WeakMap(); // what images are to show
const near = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    near.unobserve(target);
    load(target, wanted.get(target));
  }
}, { rootMargin: "600px" });

/** Shows the image of an address as soon as it is near what is seen. */
export function show(image, address) {
  wanted.set(image, address);
  near.observe(image);
}

/** The address in this page of an image of the service; for one view of it, or until the page is left. */
export async function fetched(address) {
  for (let tries = 1; ; tries += 1) {
    const response = await fetch(new URL(address, document.baseURI), { headers: authorization() });
    if (response.ok) return URL.createObjectURL(await response.blob());
    if (tries === TRIES || (response.status !== 429 && response.status !== 503)) throw new Error(response.statusText);
    const pauseMs = 1000 * (Number(response.headers.get("retry-after")) || tries);
    await new Promise((resolve) => setTimeout(resolve, pauseMs));
  }
}

async function load(image, address) {
  try {
    const shown = await fetched(address);
    image.onload = () => URL.revokeObjectURL(shown);
    image.src = shown;
  } catch {
    image.classList.add("broken");
  }
}
