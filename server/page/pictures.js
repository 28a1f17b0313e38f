// Files that are chosen, dropped or pasted: pictures and texts.

import { element } from "/page/element.js";

export const FORMATS = "PNG, JPEG, WebP, GIF, BMP or TIFF";
export const ACCEPTED = ".png,.jpg,.jpeg,.webp,.gif,.bmp,.tif,.tiff";
// The first bytes of a file as Latin-1, by the name of its kind in a data URL.
const BEGINNINGS = {
  png: /^\x89PNG\r\n\x1a\n/,
  jpeg: /^\xff\xd8\xff/,
  webp: /^RIFF[^]{4}WEBP/,
  gif: /^GIF8[79]a/,
  bmp: /^BM/,
  tiff: /^(II[*+]\0|MM\0[*+])/,
};
const HEAD_BYTES = 16;
const SIDE_PIXELS = 192;

// A picture in a request's body, behind a text: a string of JSON with its data URL.
class Inlined {
  constructor(before, picture) {
    Object.assign(this, { before, picture });
  }

  toJSON() {
    const { kind, base64 } = this.picture;
    return `${this.before}data:image/${kind};base64,${base64}`;
  }
}

export const isInlined = (value) => value instanceof Inlined;

class Picture {
  constructor(name, kind, base64, preview) {
    Object.assign(this, { name, kind, base64, preview });
  }

  get bytes() {
    return Math.floor((this.base64.replace(/=+$/, "").length * 3) / 4);
  }

  after(text) {
    return new Inlined(text, this);
  }

  // What is seen of it; some browsers cannot draw every kind.
  thumbnail() {
    if (!this.preview) return element("span", "thumbnail", this.kind.toUpperCase());
    const made = element("img", "thumbnail");
    made.src = this.preview;
    made.alt = `Thumbnail of ${this.name}`;
    return made;
  }
}

async function kindOf(file) {
  const head = new Uint8Array(await file.slice(0, HEAD_BYTES).arrayBuffer());
  const letters = String.fromCharCode(...head);
  return Object.keys(BEGINNINGS).find((kind) => BEGINNINGS[kind].test(letters));
}

// The picture in a file, or the text in one that is none. The error of any other says why.
export async function opened(file) {
  const kind = await kindOf(file);
  if (kind) return { picture: { file, kind } };
  if (file.type.startsWith("image/")) throw new Error(`${file.name} is a picture, but no ${FORMATS}.`);
  try {
    return { text: new TextDecoder("utf-8", { fatal: true }).decode(await file.arrayBuffer()) };
  } catch {
    throw new Error(`${file.name} is neither a text in UTF-8 nor a picture (${FORMATS}).`);
  }
}

// The picture under a name that no other of the `taken` has, unless it is the same. Errors say
// which of the server's limits it is above.
export async function read({ file, kind }, limits, taken) {
  if (file.size > limits.maxBytes) {
    throw new Error(`${file.name} has ${file.size} bytes, wanted at most ${limits.maxBytes}.`);
  }
  const { preview, pixels } = await previewOf(file);
  if (pixels > limits.maxPixels) {
    throw new Error(`${file.name} has ${pixels} pixels, wanted at most ${limits.maxPixels}.`);
  }
  const base64 = await base64Of(file);
  const sent = taken.reduce((sum, other) => sum + other.base64.length, base64.length);
  if (sent > limits.maxRequestBytes) {
    const most = limits.maxRequestBytes;
    throw new Error(`With ${file.name} the request would have ${sent} bytes, wanted at most ${most}.`);
  }
  const clashes = (name) => taken.some((other) => other.name === name && other.base64 !== base64);
  // A line break in a name would be one in the code that the page shows.
  const given = file.name.replace(/[\x00-\x1f\x7f]/g, "_");
  let name = given;
  for (let number = 2; clashes(name); number++) name = given.replace(/(\.[^.]*)?$/, `-${number}$1`);
  return new Picture(name, kind, base64, preview);
}

export function inWords(bytes) {
  const [unit, size] = bytes < 2 ** 20 ? ["KiB", 2 ** 10] : ["MiB", 2 ** 20];
  return `${Number((bytes / size).toFixed(1))} ${unit}`;
}

async function base64Of(file) {
  const reader = new FileReader();
  await new Promise((done, failed) => {
    reader.onload = done;
    reader.onerror = () => failed(reader.error);
    reader.readAsDataURL(file);
  });
  return reader.result.slice(reader.result.indexOf(",") + 1);
}

async function previewOf(file) {
  let bitmap;
  try {
    bitmap = await createImageBitmap(file);
  } catch {
    return { preview: null, pixels: 0 };
  }
  const { width, height } = bitmap;
  const scale = Math.min(1, SIDE_PIXELS / Math.max(width, height));
  const canvas = element("canvas");
  canvas.width = Math.max(1, Math.round(width * scale));
  canvas.height = Math.max(1, Math.round(height * scale));
  canvas.getContext("2d").drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  bitmap.close();
  return { preview: canvas.toDataURL(), pixels: width * height };
}
