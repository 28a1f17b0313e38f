"""nDCG@10 on a folder in BEIR's layout (corpus.jsonl, queries.jsonl, qrels/test.tsv).

A sanity measure of a finished checkpoint: neither training nor any setting used it.
"""

from __future__ import annotations

import argparse
import json
from contextlib import closing
from pathlib import Path

import numpy as np
from transformers import PreTrainedTokenizerFast

from embedded.groups import bm25_index, bm25_top
from embedded.model import embed
from embedded.train_embedder import SIZES
from recipe.config import PROMPT_TEMPLATE
from recipe.evaluation.collection import Collection, read_collection
from recipe.evaluation.metrics import measure
from recipe.evaluation.scorers import CheckpointScorer
from recipe.training.llama_bidirec import LlamaBidirectionalModel

EXAMPLES = (
    (
        "What is machine learning?",
        (
            "The weather is nice today",
            "Machine learning is a subset of AI",
            "Deep learning uses neural networks",
        ),
    ),
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
MAX_TOKENS, ROWS = 512, 50
DEPTH = 10


def scorer(checkpoint: Path) -> CheckpointScorer:
    """Logits of the stored ranker; at most 512 tokens a row."""
    return CheckpointScorer(str(checkpoint), PROMPT_TEMPLATE, MAX_TOKENS, ROWS)


def _z(scores: np.ndarray) -> np.ndarray:
    spread = scores.std(1, keepdims=True)
    return (scores - scores.mean(1, keepdims=True)) / np.maximum(spread, 1e-9)


def _ndcg(collection: Collection, found: np.ndarray, scores: np.ndarray) -> float:
    """Mean nDCG@10 of the passages ``found`` (indices) with these scores, both [queries, n]."""
    names = list(collection.texts)
    ranked = {
        query: {names[index]: float(score) for index, score in zip(*row, strict=True)}
        for query, *row in zip(collection.queries, found, scores, strict=True)
    }
    return round(measure(collection.grades, ranked, [DEPTH])["NDCG"][f"NDCG@{DEPTH}"], 4)


def rerank(folder: Path, checkpoint: Path) -> dict[str, float]:
    """Mean nDCG@10 of BM25's top 50 in five orders."""
    collection = read_collection(folder)
    names, texts = list(collection.texts), list(collection.texts.values())
    queries = list(collection.queries.values())
    top, bm25 = bm25_top(*bm25_index(texts), queries)
    with closing(scorer(checkpoint)) as ranker:
        logits = np.array(
            [
                ranker.score(query, [texts[index] for index in row])
                for query, row in zip(queries, top, strict=True)
            ]
        )
    grades = [collection.grades[query] for query in collection.queries]
    orders = {
        "random": np.random.default_rng(0).random(bm25.shape),
        "BM25": bm25,
        "model": logits,
        "model + BM25": _z(logits) + _z(bm25),
        "oracle": np.array(
            [[g.get(names[i], 0) for i in row] for row, g in zip(top, grades, strict=True)]
        ),
    }
    figures = {name: _ndcg(collection, top, scores) for name, scores in orders.items()}
    return figures | {"logit spread": round(float(logits.std(1).mean()), 3)}


def retrieve(folder: Path, checkpoint: Path) -> dict[str, float]:
    """Mean nDCG@10 of the whole collection ranked by cosine, at every size, and by BM25."""
    collection = read_collection(folder)
    texts, queries = list(collection.texts.values()), list(collection.queries.values())
    model = LlamaBidirectionalModel.from_pretrained(checkpoint).eval()
    tokenizer = PreTrainedTokenizerFast.from_pretrained(checkpoint)
    passages = embed(model, tokenizer, [f"passage: {text}" for text in texts], MAX_TOKENS)
    asked = embed(model, tokenizer, [f"query: {query}" for query in queries], MAX_TOKENS)
    scores = {}
    for size in SIZES:
        # The length of a query's vector does not change its order.
        unit = passages[:, :size] / np.linalg.norm(passages[:, :size], axis=1, keepdims=True)
        scores[f"{size} dimensions"] = asked[:, :size] @ unit.T
    scores["random"] = np.random.default_rng(0).random((len(queries), len(texts)))
    whole = np.broadcast_to(np.arange(len(texts)), (len(queries), len(texts)))
    figures = {name: _ndcg(collection, whole, row) for name, row in scores.items()}
    return figures | {"BM25": _ndcg(collection, *bm25_top(*bm25_index(texts), queries))}


def examples(checkpoint: Path) -> list[tuple[str, list[float]]]:
    """Each example's query with the logits of its passages, two decimals."""
    with closing(scorer(checkpoint)) as ranker:
        return [
            (text, [round(logit, 2) for logit in ranker.score(text, passages)])
            for query, passages in EXAMPLES
            for text in (query, query.lower(), query.upper())
        ]


def main() -> None:
    """Print the figures of one checkpoint."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("checkpoint", type=Path, nargs="?", default=Path("embedded/rank"))
    parser.add_argument("--beir", type=Path, default=Path("../shared/data/cranfield"))
    chosen = parser.parse_args()
    if not chosen.beir.is_dir():
        raise SystemExit(f"no folder {chosen.beir}: nothing to measure on")
    if "num_labels" in json.loads((chosen.checkpoint / "config.json").read_bytes()):
        for query, logits in examples(chosen.checkpoint):
            print(query, logits)
        figures = rerank(chosen.beir, chosen.checkpoint)
    else:
        figures = retrieve(chosen.beir, chosen.checkpoint)
    print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    main()
