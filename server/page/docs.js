// The documentation, drawn from /openapi.json.

function element(tag, text, ...children) {
  const made = document.createElement(tag);
  if (text) made.textContent = text;
  made.append(...children);
  return made;
}

function block(title, value) {
  const pre = element("pre", JSON.stringify(value, null, 2));
  pre.tabIndex = 0;
  return [element("h3", title), pre];
}

// A schema with the schemas that it names put in; a name inside itself stays a name.
function resolved(schema, schemas, inside = []) {
  if (Array.isArray(schema)) return schema.map((part) => resolved(part, schemas, inside));
  if (schema === null || typeof schema !== "object") return schema;
  const name = schema.$ref?.split("/").pop();
  if (name) return inside.includes(name) ? name : resolved(schemas[name], schemas, [...inside, name]);
  return Object.fromEntries(Object.entries(schema).map(([key, part]) => [key, resolved(part, schemas, inside)]));
}

function body(title, content, schemas) {
  return Object.entries(content ?? {}).flatMap(([type, { schema, example }]) => {
    const shown = example === undefined ? [] : block(`${title}, for example`, example);
    const details = element("details", "", element("summary", `${title}: schema (${type})`));
    details.append(...block("Schema", resolved(schema, schemas)));
    return [...shown, details];
  });
}

function operation(method, path, told, schemas) {
  const summary = element("summary", "", element("code", `${method.toUpperCase()} ${path}`), ` ${told.summary}`);
  const made = element("details", "", summary);
  if (told.description) made.append(element("p", told.description));
  made.append(...body("Request", told.requestBody?.content, schemas));
  const { 200: answer, ...failures } = told.responses;
  made.append(...body("Answer", answer?.content, schemas));
  const statuses = Object.entries(failures).map(([status, { description }]) => `${status} ${description}`);
  if (statuses.length) made.append(element("h3", "Other statuses"), element("p", statuses.join(" · ")));
  const [failure] = Object.values(failures);
  made.append(...body("Failure", failure?.content, schemas));
  return made;
}

async function draw() {
  const reply = await fetch("/openapi.json");
  const { info, paths, components } = await reply.json();
  document.getElementById("about").textContent = `${info.title}, version ${info.version}`;
  const tags = new Map();
  for (const [path, methods] of Object.entries(paths)) {
    for (const [method, told] of Object.entries(methods)) {
      const [tag] = told.tags;
      if (!tags.has(tag)) tags.set(tag, element("section", "", element("h2", tag)));
      tags.get(tag).append(operation(method, path, told, components.schemas));
    }
  }
  document.getElementById("routes").replaceChildren(...tags.values());
}

draw().catch(() => {
  document.getElementById("about").textContent = "The server did not answer. Reload when it does.";
});
