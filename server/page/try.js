import { dialects } from "/page/dialects.js";
import { curl, python } from "/page/snippets.js";

const at = (id) => document.getElementById(id);
const PLACES = 4;
let names = {};
let limit = null;

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function passages() {
  return at("passages")
    .value.split(/\r?\n/)
    .map((line) => line.trim())
    .filter(Boolean);
}

function requests() {
  const dialect = dialects[at("dialect").value];
  if (!dialect) return [];
  const model = names[dialect.needs] ?? "";
  return dialect.requests(at("query").value, passages(), at("truncate").value, model);
}

function refresh() {
  const count = passages().length;
  const most = limit === null ? "" : ` of at most ${limit}`;
  at("count").textContent = `(${count}${most})`;
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
  const texts = passages();
  if (!texts.length) return complain("Write at least one passage, each on a line of its own.");
  button.setAttribute("aria-disabled", "true");
  const began = performance.now();
  try {
    const replies = await Promise.all(requests().map(send));
    const answer = dialect.read(replies.map(({ read }) => read));
    show(answer, texts, replies, performance.now() - began);
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

function show({ items, tokens }, texts, replies, milliseconds) {
  const score = (item) => item.logit ?? item.cosine;
  const ranked = [...items].sort((a, b) => score(b) - score(a) || a.index - b.index);
  const finite = ranked.map(score).filter(Number.isFinite);
  const [low, high] = [Math.min(...finite), Math.max(...finite)];
  const cut = replies.reduce((sum, { headers }) => sum + Number(headers.get("x-truncated-passages") ?? 0), 0);
  at("ranking").replaceChildren(
    ...ranked.map((item, place) => {
      const share = high > low ? (score(item) - low) / (high - low) : 1;
      return row(item, place, texts[item.index], share);
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

function row(item, place, text, share) {
  const made = element("li");
  const figures = element("div", "figures");
  const shown =
    item.cosine === undefined
      ? [`logit ${item.logit.toFixed(PLACES)}`, `relevance ${item.relevance.toFixed(PLACES)}`]
      : [`cosine ${item.cosine.toFixed(PLACES)}`];
  figures.append(element("span", "place", `${place + 1}.`));
  figures.append(...shown.map((part) => element("span", "", part)));
  if (item.tokens !== undefined) figures.append(element("span", "", `${item.tokens} tokens`));
  figures.append(element("span", "", `passage ${item.index + 1}`));
  const track = element("div", "track");
  const bar = element("div", "bar");
  bar.style.width = `${Math.max(0, Math.min(1, share)) * 100}%`;
  track.append(bar);
  made.append(figures, track, element("p", "text", text));
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

async function take(file) {
  if (!file) return;
  at("passages").value = (await file.text()).trimEnd();
  refresh();
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
  const models = told.modelInfo;
  names = Object.fromEntries(models.map((model) => [model.kind, model.modelUrl.split("//")[1].split(":")[0]]));
  limit = models[0].maxBatchSize;
  at("served").textContent = models
    .map((m) => {
      const doubt = m.mock ? ", made-up scores" : m.proven ? ", proven" : ", not proven";
      return `${m.shortName} on ${m.engine} (${m.precision}${doubt}), at most ${m.maxTokens} tokens`;
    })
    .join(" · ");
  const spoken = Object.entries(dialects).filter(([, dialect]) => names[dialect.needs]);
  at("dialect").replaceChildren(
    ...spoken.map(([name, dialect]) => {
      const option = element("option", "", dialect.title);
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
at("file").addEventListener("change", (event) => take(event.target.files[0]));
const box = at("passages");
box.addEventListener("dragover", (event) => {
  event.preventDefault();
  box.classList.add("over");
});
box.addEventListener("dragleave", () => box.classList.remove("over"));
box.addEventListener("drop", (event) => {
  box.classList.remove("over");
  if (!event.dataTransfer.files.length) return;
  event.preventDefault();
  take(event.dataTransfer.files[0]);
});
meet();
