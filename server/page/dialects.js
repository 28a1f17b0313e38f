// What the page can speak: how a ranking is asked for, and how the answer is read.
//
// `needs` is the kind of model; `images` says whether passages may have pictures; `requests` gives
// [path, body] for each request to send, with passages {text, picture}; `read` turns the replies
// into items {index, logit, relevance, tokens} and the tokens of all passages.

const sigmoid = (logit) => 1 / (1 + Math.exp(-logit));
const byLogit = (index, logit, tokens) => ({ index, logit, relevance: sigmoid(logit), tokens });
const direction = { NONE: {}, END: { truncate: true }, START: { truncate: true, truncation_direction: "left" } };

// Without an empty text beside a picture, which a NIM refuses.
function fields({ text, picture }) {
  if (!picture) return { text };
  return { ...(text && { text }), image: picture.after("") };
}

const documents = (passages) => passages.map((one) => (one.picture ? fields(one) : one.text));
const illustrated = (passages) => passages.some(({ picture }) => picture);

function modality({ text, picture }) {
  if (!picture) return "text";
  return text ? "text_image" : "image";
}

function column(name, texts) {
  return { name, shape: [texts.length, 1], datatype: "BYTES", data: texts };
}

function readKserve(reply) {
  const data = Object.fromEntries(reply.outputs.map((output) => [output.name, output.data]));
  const items = data.index.map((index, row) => byLogit(index, data.logit[row], data.token_count[row]));
  return { items, tokens: data.token_count.reduce((sum, count) => sum + count, 0) };
}

// Some models' vectors have other lengths than 1.
function cosine(one, other) {
  const dot = (a, b) => a.reduce((sum, value, place) => sum + value * b[place], 0);
  return dot(one, other) / Math.sqrt(dot(one, one) * dot(other, other));
}

function readEmbeddings([query, passages]) {
  const [asked] = query.data;
  const items = passages.data.map(({ index, embedding }) => ({ index, cosine: cosine(embedding, asked.embedding) }));
  return { items, tokens: query.usage.total_tokens + passages.usage.total_tokens };
}

export const dialects = {
  nim: {
    title: "NIM · POST /v1/ranking",
    needs: "rank",
    images: true,
    requests: (query, passages, truncate) => [
      ["/v1/ranking", { query: { text: query }, passages: passages.map(fields), truncate }],
    ],
    read: ([reply]) => ({
      items: reply.rankings.map(({ index, logit }) => byLogit(index, logit)),
      tokens: reply.usage.total_tokens,
    }),
  },
  rerank: {
    title: "Simple · POST /rerank",
    needs: "rank",
    images: true,
    requests: (query, passages, truncate) => [
      ["/rerank", { query, documents: documents(passages), truncate, return_documents: false }],
    ],
    read: ([reply]) => ({
      items: reply.scores.map((logit, index) => byLogit(index, logit)),
      tokens: reply.usage.total_tokens,
    }),
  },
  cohere: {
    title: "Cohere v1, Jina, vLLM · POST /v1/rerank",
    needs: "rank",
    images: true,
    requests: (query, passages, truncate) => [
      ["/v1/rerank", { query, documents: documents(passages), truncate, use_activation: false }],
    ],
    read: ([reply]) => ({
      items: reply.results.map(({ index, relevance_score }) => byLogit(index, relevance_score)),
      tokens: reply.usage.total_tokens,
    }),
  },
  tei: {
    title: "TEI · POST /rerank with texts",
    needs: "rank",
    images: false,
    requests: (query, passages, truncate) => [
      ["/rerank", { query, texts: passages.map(({ text }) => text), raw_scores: true, ...direction[truncate] }],
    ],
    read: ([reply]) => ({ items: reply.map(({ index, score }) => byLogit(index, score)) }),
  },
  kserve: {
    title: "KServe v2 · POST /v2/models/…/infer",
    needs: "rank",
    images: true,
    requests: (query, passages, truncate, model) => [
      [
        `/v2/models/${model.replace(/[^A-Za-z0-9]/g, "_")}/infer`,
        {
          inputs: [
            column("query", passages.map(() => query)),
            column("passage", passages.map(({ text }) => text)),
            ...(illustrated(passages)
              ? [column("passage_image", passages.map(({ picture }) => picture?.after("") ?? ""))]
              : []),
          ],
          parameters: { truncate },
        },
      ],
    ],
    read: ([reply]) => readKserve(reply),
  },
  embeddings: {
    title: "Embeddings and cosine · POST /v1/embeddings",
    needs: "embed",
    images: true,
    requests: (query, passages, truncate) => [
      ["/v1/embeddings", { input: [query], input_type: "query", truncate }],
      [
        "/v1/embeddings",
        {
          input: passages.map(({ text, picture }) => picture?.after(text && `${text}\n`) ?? text),
          ...(illustrated(passages) && { modality: passages.map(modality) }),
          input_type: "passage",
          truncate,
        },
      ],
    ],
    read: readEmbeddings,
  },
};
