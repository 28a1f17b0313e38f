"""nDCG@10 on a folder in BEIR's layout (corpus.jsonl, queries.jsonl, qrels/test.tsv).

A sanity measure of a finished checkpoint: neither training nor any setting used it.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from checks.beir import ndcg, read_collection
from embedded.bpe import TEMPLATE
from embedded.groups import TOP, bm25_index, bm25_top
from embedded.model import Embedder, Ranker, load, load_embedder
from embedded.rows import run
from embedded.train_embedder import SIZES

README_QUERY = "What is machine learning?"
README_PASSAGES = (
    "The weather is nice today",
    "Machine learning is a subset of AI",
    "Deep learning uses neural networks",
)
MAX_TOKENS = 512


@torch.inference_mode()
def score(ranker: Ranker, tokenizer: Tokenizer, pairs: list[tuple[str, str]]) -> np.ndarray:
    """Logits [pairs] float32, padded on the left, at most 512 tokens a row."""
    texts = [TEMPLATE.format(query=query, passage=passage) for query, passage in pairs]
    ids = [encoding.ids[:MAX_TOKENS] for encoding in tokenizer.encode_batch(texts)]
    order = np.argsort([len(row) for row in ids], kind="stable")
    logits = np.empty(len(ids), np.float32)
    for part in np.array_split(order, max(1, len(order) // 50)):
        width = max(len(ids[index]) for index in part)
        rows = torch.tensor([[1] * (width - len(ids[i])) + ids[i] for i in part])
        mask = torch.tensor([[0] * (width - len(ids[i])) + [1] * len(ids[i]) for i in part])
        logits[part] = ranker(rows, mask).numpy()
    return logits


def _z(scores: np.ndarray) -> np.ndarray:
    spread = scores.std(1, keepdims=True)
    return (scores - scores.mean(1, keepdims=True)) / np.maximum(spread, 1e-9)


def rerank(folder: Path, ranker: Ranker, tokenizer: Tokenizer) -> dict[str, float]:
    """Mean nDCG@10 of BM25's top 50 in five orders."""
    collection = read_collection(folder)
    texts, queries, grades = collection.texts, collection.queries, collection.grades
    top, bm25 = bm25_top(*bm25_index(texts), queries)
    pairs = [(query, texts[i]) for query, row in zip(queries, top, strict=True) for i in row]
    logits = score(ranker, tokenizer, pairs).reshape(-1, TOP)
    oracle = np.array(
        [[g.get(int(i), 0.0) for i in row] for row, g in zip(top, grades, strict=True)]
    )
    rng = np.random.default_rng(0)
    orders = {
        "random": rng.random(bm25.shape),
        "BM25": bm25,
        "model": logits,
        "model + BM25": _z(logits) + _z(bm25),
        "oracle": oracle,
    }
    figures = {}
    for name, scores in orders.items():
        best = np.argsort(-scores, axis=1, kind="stable")
        values = [ndcg(row[b].tolist(), g) for row, b, g in zip(top, best, grades, strict=True)]
        figures[name] = round(float(np.mean(values)), 4)
    figures["logit spread"] = round(float(logits.std(1).mean()), 3)
    return figures


@torch.inference_mode()
def embed(embedder: Embedder, tokenizer: Tokenizer, texts: list[str]) -> torch.Tensor:
    """Vectors [texts, 128] float32, not normalised; at most 512 tokens a text."""
    rows = [np.array(found.ids[:MAX_TOKENS]) for found in tokenizer.encode_batch(texts)]
    parts = [run(embedder, rows[i : i + 200]) for i in range(0, len(rows), 200)]
    return torch.cat(parts)


def retrieve(folder: Path, embedder: Embedder, tokenizer: Tokenizer) -> dict[str, float]:
    """Mean nDCG@10 of the whole collection ranked by cosine, at every size, and by BM25."""
    collection = read_collection(folder)
    texts, queries, grades = collection.texts, collection.queries, collection.grades
    passages = embed(embedder, tokenizer, [f"passage: {text}" for text in texts])
    asked = embed(embedder, tokenizer, [f"query: {query}" for query in queries])
    orders: dict[str, list[list[int]]] = {}
    for size in SIZES:
        parts = (torch.nn.functional.normalize(v[:, :size], dim=-1) for v in (asked, passages))
        queries_cut, passages_cut = parts
        near = (queries_cut @ passages_cut.T).topk(10).indices
        orders[f"{size} dimensions"] = near.tolist()
    rng = np.random.default_rng(0)
    orders["random"] = [rng.permutation(len(texts))[:10].tolist() for _ in queries]
    orders["BM25"] = bm25_top(*bm25_index(texts), queries)[0][:, :10].tolist()
    return {
        name: round(float(np.mean([ndcg(row, g) for row, g in zip(found, grades, strict=True)])), 4)
        for name, found in orders.items()
    }


EXAMPLES = (
    (README_QUERY, README_PASSAGES),
    (
        "what is AI?",
        ("AI is artificial intelligence", "The weather is nice today", "Bananas are yellow"),
    ),
    (
        "AI tools for productivity",
        (
            "A task management app built with React and Node.js",
            "An AI-powered writing assistant that helps with emails",
            "A weather widget for the desktop",
        ),
    ),
)


def examples(ranker: Ranker, tokenizer: Tokenizer) -> list[tuple[str, list[float]]]:
    """Each example's query with the logits of its passages, two decimals."""
    result = []
    for query, passages in EXAMPLES:
        for text in (query, query.lower(), query.upper()):
            logits = score(ranker, tokenizer, [(text, passage) for passage in passages])
            result.append((text, [round(float(value), 2) for value in logits]))
    return result


def main() -> None:
    """Print the figures of one checkpoint."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("checkpoint", type=Path, nargs="?", default=Path("embedded/rank"))
    parser.add_argument("--beir", type=Path, default=Path("../shared/data/cranfield"))
    chosen = parser.parse_args()
    tokenizer = Tokenizer.from_file(str(chosen.checkpoint / "tokenizer.json"))
    if not chosen.beir.is_dir():
        raise SystemExit(f"no folder {chosen.beir}: nothing to measure on")
    if "num_labels" in json.loads((chosen.checkpoint / "config.json").read_bytes()):
        ranker = load(chosen.checkpoint)
        for query, logits in examples(ranker, tokenizer):
            print(query, logits)
        figures = rerank(chosen.beir, ranker, tokenizer)
    else:
        figures = retrieve(chosen.beir, load_embedder(chosen.checkpoint), tokenizer)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
