import { dialects } from "/page/dialects.js";
import { element } from "/page/element.js";
import { add, illustrated } from "/page/gallery.js";
import { ACCEPTED, FORMATS, inWords, opened, read } from "/page/pictures.js";
import { curl, python } from "/page/snippets.js";

const at = (id) => document.getElementById(id);
const PLACES = 4;
// The served models by kind: name, most passages, and limits of images, null without images.
let models = {};

// Passages {text, picture}: those of the lines, then the pictures.
function passages() {
  const lines = at("passages")
    .value.split(/\r?\n/)
    .map((line) => line.trim())
    .filter(Boolean);
  return [...lines.map((text) => ({ text })), ...illustrated()];
}

// The limits of images in a dialect; null where it takes texts only.
function imageLimits(dialect) {
  return (dialect?.images && models[dialect.needs]?.images) || null;
}

function requests() {
  const dialect = dialects[at("dialect").value];
  if (!dialect) return [];
  const { name } = models[dialect.needs];
  return dialect.requests(at("query").value, passages(), at("truncate").value, name);
}

function refresh() {
  const dialect = dialects[at("dialect").value];
  const most = dialect ? ` of at most ${models[dialect.needs].most}` : "";
  at("count").textContent = `(${passages().length}${most})`;
  const limits = imageLimits(dialect);
  at("pictures-hint").textContent = limits
    ? `Pictures are passages, too: ${FORMATS}, at most ${inWords(limits.maxBytes)} each.`
    : "";
  at("files-hint").hidden = !illustrated().length;
  for (const option of at("dialect").options) {
    option.disabled = illustrated().length > 0 && !imageLimits(dialects[option.value]);
  }
  const asked = requests();
  at("curl").textContent = curl(location.origin, asked);
  at("python").textContent = python(location.origin, asked);
}

function complain(text) {
  at("problem").textContent = text;
  at("problem").hidden = !text;
}

// Every dialect has words of its own for what went wrong.
function wordsOf(body) {
  const { error, message, detail } = body ?? {};
  const found = [message, error?.message, error, detail].find((part) => typeof part === "string" && part);
  return found ?? "The answer does not say why.";
}

async function send([path, body]) {
  let reply;
  try {
    reply = await fetch(path, {
      method: "POST",
      headers: { "content-type": "application/json" },
      body: JSON.stringify(body),
    });
  } catch {
    throw new Error("The server did not answer. Is it still running?");
  }
  const text = await reply.text();
  let read = null;
  try {
    read = JSON.parse(text);
  } catch {
    // Something in between may answer with a page of its own.
  }
  if (!reply.ok) throw new Error(`${wordsOf(read)} (status ${reply.status} from ${path})`);
  if (read === null) throw new Error(`${path} answered something that is not JSON.`);
  return { read, headers: reply.headers };
}

async function rank(event) {
  event?.preventDefault();
  const dialect = dialects[at("dialect").value];
  const button = at("rank");
  if (button.getAttribute("aria-disabled") === "true") return;
  complain("");
  if (!dialect) return complain("Nothing is served that this page could ask. See the server's log.");
  if (!at("query").value.trim()) return complain("Write a query first.");
  const asked = passages();
  if (!asked.length) return complain("Write at least one passage, each on a line of its own.");
  button.setAttribute("aria-disabled", "true");
  const began = performance.now();
  try {
    const replies = await Promise.all(requests().map(send));
    const answer = dialect.read(replies.map(({ read }) => read));
    show(answer, asked, replies, performance.now() - began);
  } catch (problem) {
    at("answer").hidden = true;
    complain(problem.message);
  } finally {
    button.removeAttribute("aria-disabled");
  }
}

function stages(headers) {
  const told = (headers.get("server-timing") ?? "").matchAll(/(\w+);dur=([\d.]+)/g);
  return [...told].map(([, stage, milliseconds]) => `${stage} ${Number(milliseconds).toFixed(1)} ms`);
}

function show({ items, tokens }, asked, replies, milliseconds) {
  const score = (item) => item.logit ?? item.cosine;
  const ranked = [...items].sort((a, b) => score(b) - score(a) || a.index - b.index);
  const finite = ranked.map(score).filter(Number.isFinite);
  const [low, high] = [Math.min(...finite), Math.max(...finite)];
  const cut = replies.reduce((sum, { headers }) => sum + Number(headers.get("x-truncated-passages") ?? 0), 0);
  at("ranking").replaceChildren(
    ...ranked.map((item, place) => {
      const share = high > low ? (score(item) - low) / (high - low) : 1;
      return row(item, place, asked[item.index], share);
    }),
  );
  at("figures").textContent = [
    `${ranked.length} passages`,
    tokens === undefined ? null : `${tokens} tokens`,
    cut ? `${cut} cut to fit` : null,
    ...replies.flatMap(({ headers }) => stages(headers)),
    `${milliseconds.toFixed(0)} ms in all`,
  ]
    .filter(Boolean)
    .join(" · ");
  at("answer").hidden = false;
  at("answer-heading").focus();
}

function row(item, place, { text, picture }, share) {
  const made = element("li");
  const figures = element("div", "figures");
  const scores =
    item.cosine === undefined
      ? [`logit ${item.logit.toFixed(PLACES)}`, `relevance ${item.relevance.toFixed(PLACES)}`]
      : [`cosine ${item.cosine.toFixed(PLACES)}`];
  figures.append(element("span", "place", `${place + 1}.`));
  figures.append(...scores.map((part) => element("span", "", part)));
  if (item.tokens !== undefined) figures.append(element("span", "", `${item.tokens} tokens`));
  figures.append(element("span", "", `passage ${item.index + 1}`));
  const track = element("div", "track");
  const bar = element("div", "bar");
  bar.style.width = `${Math.max(0, Math.min(1, share)) * 100}%`;
  track.append(bar);
  made.append(figures, track);
  if (!picture) {
    made.append(element("p", "text", text));
    return made;
  }
  figures.append(element("span", "name", picture.name));
  const shown = element("div", "illustrated");
  shown.append(picture.thumbnail());
  if (text) shown.append(element("p", "text", text));
  made.append(shown);
  return made;
}

async function copy(event) {
  const text = at(event.currentTarget.dataset.copies).textContent;
  try {
    await navigator.clipboard.writeText(text);
    at("copied").textContent = "Copied.";
  } catch {
    // Browsers lend the clipboard to pages on localhost or https only.
    getSelection().selectAllChildren(at(event.currentTarget.dataset.copies));
    at("copied").textContent = "This browser keeps its clipboard; the text is selected, press Ctrl+C.";
  }
}

// One after the other, as the pictures' names must differ.
let taking = Promise.resolve();
function take(files) {
  taking = taking.then(() => takeAll(files));
}

// Texts take the place of the lines; pictures join the others. Whatever is refused is said.
async function takeAll(files) {
  const [texts, taken, problems] = [[], [], []];
  for (const file of files) {
    try {
      const { text, picture } = await opened(file);
      if (picture) taken.push(await illustrate(picture));
      else texts.push(text.trimEnd());
    } catch (problem) {
      // The browser's own errors, as of a folder, do not say of which file.
      const own = problem instanceof DOMException;
      problems.push(own ? `${file.name} cannot be read: ${problem.message}` : problem.message);
    }
  }
  if (texts.length) at("passages").value = texts.join("\n");
  at("taken").textContent = taken.length ? `Added ${taken.join(", ")}.` : "";
  complain(problems.join(" "));
  refresh();
}

async function illustrate(found) {
  const dialect = dialects[at("dialect").value];
  const limits = imageLimits(dialect);
  if (!limits) {
    const others = Object.values(dialects).some(imageLimits);
    const why = others ? `${dialect.title} takes texts only; choose another dialect` : "the model takes texts only";
    throw new Error(`${found.file.name} is a picture, and ${why}.`);
  }
  const picture = await read(found, limits, illustrated().map((one) => one.picture));
  add(picture, (name) => {
    at("taken").textContent = `Removed ${name}.`;
    refresh();
  });
  return picture.name;
}

async function meet() {
  let told;
  try {
    const reply = await fetch("/v1/metadata");
    told = await reply.json();
    if (!reply.ok) throw new Error(wordsOf(told));
  } catch (problem) {
    at("served").textContent = `Not ready: ${problem.message} Trying again…`;
    setTimeout(meet, 2000);
    return;
  }
  models = Object.fromEntries(
    told.modelInfo.map(({ kind, modelUrl, maxBatchSize, images }) => [
      kind,
      { name: modelUrl.split("//")[1].split(":")[0], most: maxBatchSize, images },
    ]),
  );
  at("served").textContent = told.modelInfo
    .map((m) => {
      const doubt = m.mock ? ", made-up scores" : m.proven ? ", proven" : ", not proven";
      return `${m.shortName} on ${m.engine} (${m.precision}${doubt}), at most ${m.maxTokens} tokens`;
    })
    .join(" · ");
  const spoken = Object.entries(dialects).filter(([, dialect]) => models[dialect.needs]);
  const illustrates = spoken.some(([, dialect]) => imageLimits(dialect));
  if (illustrates) at("file").accept += `,${ACCEPTED}`;
  at("dialect").replaceChildren(
    ...spoken.map(([name, dialect]) => {
      const textOnly = illustrates && !imageLimits(dialect);
      const option = element("option", "", dialect.title + (textOnly ? " · texts only" : ""));
      option.value = name;
      return option;
    }),
  );
  refresh();
}

at("ask").addEventListener("submit", rank);
at("ask").addEventListener("input", refresh);
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) rank(event);
});
for (const button of document.querySelectorAll("[data-copies]")) button.addEventListener("click", copy);
at("file").addEventListener("change", ({ target }) => {
  take([...target.files]);
  target.value = ""; // so that the same file may be chosen again
});
document.addEventListener("paste", (event) => {
  const { files, types } = event.clipboardData;
  // Cells of a spreadsheet are pasted as text, though there is a picture of them, too.
  if (!files.length || types.includes("text/plain")) return;
  event.preventDefault();
  take([...files]);
});
// Anywhere on the page, as a browser would otherwise leave it for the file.
const bringsFiles = (event) => event.dataTransfer.types.includes("Files");
document.addEventListener("dragover", (event) => {
  if (!bringsFiles(event)) return;
  event.preventDefault();
  at("passages").classList.add("over");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) at("passages").classList.remove("over");
});
document.addEventListener("drop", (event) => {
  at("passages").classList.remove("over");
  if (!bringsFiles(event)) return;
  event.preventDefault();
  take([...event.dataTransfer.files]);
});
meet();
