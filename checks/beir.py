"""nDCG@10 of a model over BM25's candidates, on a folder in BEIR's layout."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from typing import cast

import bm25s
import numpy as np

from recipe.evaluation.collection import Collection
from recipe.evaluation.metrics import measure_each
from runtime.embedder import Embedder
from runtime.model import Model
from runtime.ranker import Ranker
from runtime.requests import EmbedRequest, RankRequest

CANDIDATES = 50
DEPTH = 10


def candidates(collection: Collection, count: int) -> dict[str, list[str]]:
    """For each of the first `count` queries, the ids of BM25's best CANDIDATES passages, best first
    (English stop words)."""
    names = list(collection.texts)
    asked = dict(islice(collection.queries.items(), count))
    index = bm25s.BM25()
    index.index(_tokens(collection.texts.values()), show_progress=False)
    depth = min(CANDIDATES, len(names))
    found, _ = index.retrieve(_tokens(asked.values()), k=depth, show_progress=False)
    return {query: [names[i] for i in row] for query, row in zip(asked, found, strict=True)}


def _tokens(texts: Iterable[str]) -> list[list[str]]:
    return bm25s.tokenize(list(texts), stopwords="en", show_progress=False, return_ids=False)


def ndcg(
    orders: Mapping[str, Sequence[str]], grades: Mapping[str, Mapping[str, int]]
) -> list[float]:
    """nDCG@10 with linear gains of each query in `orders`: its passages' ids, best first."""
    scores = {
        query: {name: -float(place) for place, name in enumerate(order)}
        for query, order in orders.items()
    }
    found = measure_each({query: grades[query] for query in orders}, scores, [DEPTH])["NDCG"]
    return [figures[f"NDCG@{DEPTH}"] for figures in found.values()]


def rerank(model: Model, collection: Collection, queries: int) -> tuple[float, float]:
    """Mean nDCG@10 of BM25 and of the model over BM25's candidates, for the first `queries`."""
    found = candidates(collection, queries)
    reranked = {}
    for query, names in found.items():
        passages = [collection.texts[name] for name in names]
        order = _order(model, collection.queries[query], passages)
        reranked[query] = [names[i] for i in order]
    plain, better = (float(np.mean(ndcg(one, collection.grades))) for one in (found, reranked))
    return plain, better


def _order(model: Model, query: str, passages: Sequence[str]) -> Sequence[int]:
    """Indexes of the passages, best first: by logit, or by cosine to the query."""
    if not isinstance(model, Embedder):
        return cast(Ranker, model).rank(RankRequest(query, passages, truncate="END")).order.tolist()
    asked = model.embed(EmbedRequest([query], "query", truncate="END")).vectors[0]
    found = model.embed(EmbedRequest(passages, "passage", truncate="END")).vectors
    cosines = found @ asked / np.linalg.norm(found, axis=1)
    return np.argsort(-cosines, kind="stable").tolist()
