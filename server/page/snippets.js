// The same requests as a shell and as Python would send them. They read pictures from their files.

import { isInlined } from "/page/pictures.js";

const JSON_WORDS = { null: "null", true: "true", false: "false" };
const PYTHON_WORDS = { null: "None", true: "True", false: "False" };

// JSON on one line: a string's line breaks are escaped in it, so no line can end the here-document.
export function curl(origin, requests) {
  return requests
    .map(([path, body]) => {
      // In a here-document that is quoted, nothing is replaced by the shell; a file must be.
      const [end, inside] = hasPictures(body) ? ["END", unquoted] : ["'END'", (text) => text];
      return (
        `curl -sS ${origin}${path} -H 'content-type: application/json' --data-binary @- <<${end}\n` +
        `${written(body, JSON_WORDS, (text) => inside(JSON.stringify(text)), fileInShell)}\nEND`
      );
    })
    .join("\n\n");
}

export function python(origin, requests) {
  const calls = requests.map(
    ([path, body]) =>
      `reply = httpx.post(\n    "${origin}${path}",\n` +
      `    json=${written(body, PYTHON_WORDS, JSON.stringify, fileInPython)},\n    timeout=60,\n)\n` +
      "reply.raise_for_status()\nprint(reply.json())",
  );
  const head = requests.some(([, body]) => hasPictures(body)) ? PICTURES_IN_PYTHON : "import httpx\n";
  return `${head}\n${calls.join("\n\n")}`;
}

const PICTURES_IN_PYTHON = `from base64 import b64encode
from pathlib import Path

import httpx


def picture(path, kind):
    return f"data:image/{kind};base64,{b64encode(Path(path).read_bytes()).decode()}"

`;

function fileInPython({ before, picture: { name, kind } }) {
  const call = `picture(${JSON.stringify(name)}, "${kind}")`;
  return before ? `${JSON.stringify(before)} + ${call}` : call;
}

// Without base64's option -w, which only GNU has.
function fileInShell({ before, picture: { name, kind } }) {
  const path = `'${name.replaceAll("'", "'\\''")}'`;
  const text = unquoted(JSON.stringify(before).slice(1, -1));
  return `"${text}data:image/${kind};base64,$(base64 < ${path} | tr -d '\\n')"`;
}

function unquoted(text) {
  return text.replace(/[\\$`]/g, "\\$&");
}

function hasPictures(value) {
  if (value === null || typeof value !== "object") return false;
  return isInlined(value) || Object.values(value).some(hasPictures);
}

// JSON, or Python, which differs in three words. `text` and `file` write strings.
function written(value, words, text, file) {
  const inner = (held) => written(held, words, text, file);
  if (isInlined(value)) return file(value);
  if (typeof value === "string") return text(value);
  if (Array.isArray(value)) return `[${value.map(inner).join(", ")}]`;
  if (value !== null && typeof value === "object") {
    const pairs = Object.entries(value).map(([key, held]) => `${text(key)}: ${inner(held)}`);
    return `{${pairs.join(", ")}}`;
  }
  return words[value] ?? String(value);
}
