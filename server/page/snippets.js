// The same requests as a shell and as Python would send them.

// JSON on one line: a string's line breaks are escaped in it, so no line can end the here-document.
export function curl(origin, requests) {
  return requests
    .map(
      ([path, body]) =>
        `curl -sS ${origin}${path} -H 'content-type: application/json' --data-binary @- <<'END'\n` +
        `${JSON.stringify(body)}\nEND`,
    )
    .join("\n\n");
}

// JSON is Python but for three words, which cannot stand inside the text that json.loads reads.
export function python(origin, requests) {
  const calls = requests.map(
    ([path, body]) =>
      `reply = httpx.post(\n    "${origin}${path}",\n    json=${literal(body)},\n    timeout=60,\n)\n` +
      "reply.raise_for_status()\nprint(reply.json())",
  );
  return `import httpx\n\n${calls.join("\n\n")}`;
}

function literal(value) {
  if (value === null) return "None";
  if (typeof value === "boolean") return value ? "True" : "False";
  if (Array.isArray(value)) return `[${value.map(literal).join(", ")}]`;
  if (typeof value === "object") {
    const pairs = Object.entries(value).map(([key, held]) => `${JSON.stringify(key)}: ${literal(held)}`);
    return `{${pairs.join(", ")}}`;
  }
  return JSON.stringify(value);
}
