// Pictures that are searched with: kept for this session, by a name that links may carry.

const KEPT_AS = "anykey.picture.";
const LARGEST_SIDE_PX = 1280;
const LARGEST_BYTES = 1_000_000;
const here = new Map();

/** Takes a picture in; gives its name. Large photos are made smaller first, as models look at far fewer pixels. */
export async function take(file) {
  const address = await small(file);
  const name = Array.from(crypto.getRandomValues(new Uint8Array(8)), (one) => one.toString(16).padStart(2, "0")).join("");
  here.set(name, address);
  try {
    sessionStorage.setItem(KEPT_AS + name, address);
  } catch { /* no room left: it is there until the page is loaded anew */ }
  return name;
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

async function small(file) {
  if (file.size <= LARGEST_BYTES) return read(file);
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { imageOrientation: "from-image" });
  } catch {
    return read(file); // the service reads more formats than browsers do, and says so if it does not
  }
  const scale = Math.min(1, LARGEST_SIDE_PX / Math.max(bitmap.width, bitmap.height));
  const canvas = document.createElement("canvas");
  canvas.width = Math.max(1, Math.round(bitmap.width * scale));
  canvas.height = Math.max(1, Math.round(bitmap.height * scale));
  const paper = canvas.getContext("2d");
  paper.fillStyle = "#fff"; // what the service lays transparency on, too
  paper.fillRect(0, 0, canvas.width, canvas.height);
  paper.imageSmoothingQuality = "high";
  paper.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return canvas.toDataURL("image/jpeg", 0.92);
}

function read(file) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(file);
  });
}
