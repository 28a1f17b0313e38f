"""nDCG@10 of a model over BM25's candidates, on a folder in BEIR's layout."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import bm25s
import numpy as np

from runtime.embedder import Embedder
from runtime.model import Model
from runtime.ranker import Ranker
from runtime.requests import EmbedRequest, RankRequest

CANDIDATES = 50
DEPTH = 10


@dataclass(frozen=True)
class Collection:
    """Texts of the corpus, queries with judgements, and per query the grade of each text."""

    texts: list[str]
    queries: list[str]
    grades: list[dict[int, float]]


def read_collection(folder: Path) -> Collection:
    """Read corpus.jsonl, queries.jsonl and qrels/test.tsv."""
    corpus = _lines(folder / "corpus.jsonl")
    number = {row["_id"]: index for index, row in enumerate(corpus)}
    grades: dict[str, dict[int, float]] = defaultdict(dict)
    for line in (folder / "qrels" / "test.tsv").read_text().splitlines()[1:]:
        query, document, grade = line.split("\t")
        grades[query][number[document]] = float(grade)
    judged = [row for row in _lines(folder / "queries.jsonl") if row["_id"] in grades]
    return Collection(
        texts=[f"{row.get('title', '')} {row['text']}".strip() for row in corpus],
        queries=[row["text"] for row in judged],
        grades=[grades[row["_id"]] for row in judged],
    )


def candidates(texts: Sequence[str], queries: Sequence[str]) -> list[list[int]]:
    """Per query the indexes of BM25's best CANDIDATES texts, best first (English stop words)."""
    index = bm25s.BM25()
    index.index(_tokens(texts), show_progress=False)
    depth = min(CANDIDATES, len(texts))
    found, _ = index.retrieve(_tokens(queries), k=depth, show_progress=False)
    return [[int(i) for i in row] for row in found]


def _tokens(texts: Sequence[str]) -> list[list[str]]:
    return bm25s.tokenize(list(texts), stopwords="en", show_progress=False, return_ids=False)


def ndcg(order: Sequence[int], grades: Mapping[int, float]) -> float:
    """nDCG@10 with linear gains of texts in this `order`, best first."""
    discounts = 1 / np.log2(np.arange(2, DEPTH + 2))
    gains = np.asarray([grades.get(index, 0.0) for index in order[:DEPTH]])
    ideal = np.asarray(sorted(grades.values(), reverse=True)[:DEPTH])
    return float(gains @ discounts[: len(gains)] / (ideal @ discounts[: len(ideal)]))


def rerank(model: Model, collection: Collection, queries: int) -> tuple[float, float]:
    """Mean nDCG@10 of BM25 and of the model over BM25's candidates, for the first `queries`."""
    asked = collection.queries[:queries]
    figures = []
    for query, grades, found in zip(
        asked, collection.grades, candidates(collection.texts, asked), strict=False
    ):
        passages = [collection.texts[i] for i in found]
        reranked = [found[i] for i in _order(model, query, passages)]
        figures.append((ndcg(found, grades), ndcg(reranked, grades)))
    plain, better = np.mean(figures, axis=0)
    return float(plain), float(better)


def _order(model: Model, query: str, passages: Sequence[str]) -> Sequence[int]:
    """Indexes of the passages, best first: by logit, or by cosine to the query."""
    if not isinstance(model, Embedder):
        return cast(Ranker, model).rank(RankRequest(query, passages, truncate="END")).order.tolist()
    asked = model.embed(EmbedRequest([query], "query", truncate="END")).vectors[0]
    found = model.embed(EmbedRequest(passages, "passage", truncate="END")).vectors
    cosines = found @ asked / np.linalg.norm(found, axis=1)
    return np.argsort(-cosines, kind="stable").tolist()


def _lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]
