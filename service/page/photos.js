// Photos as the service is given them: large ones are made smaller first, as models look at far fewer pixels.

import { keepPicture } from "./pictures.js";

const LARGEST_SIDE_PX = 1280;
const LARGEST_BYTES = 1_000_000;

/** Takes a picture in; gives its name. */
export async function take(file) {
  const address = await small(file);
  const name = Array.from(crypto.getRandomValues(new Uint8Array(8)), (one) => one.toString(16).padStart(2, "0")).join("");
  keepPicture(name, address);
  return name;
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
