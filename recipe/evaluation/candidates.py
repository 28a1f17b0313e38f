"""The first stage: for every query, the nearest passages of a dense retriever.

The search is exact over normalised vectors, so that a score is a cosine. The result is kept in
candidates.json: every column of the results reranks exactly the same passages.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np

from recipe.corpus_images import Document
from recipe.durable import read_json, write_atomic
from recipe.evaluation.collection import Collection
from runtime.postprocess import Floats, InputType, unit

# Texts, and passages with images → their vectors float32 [n, d].
Embed = Callable[[Sequence[Document], InputType], Floats]
CANDIDATES_FILE = "candidates.json"


class Candidates(msgspec.Struct, frozen=True, kw_only=True):
    """`found` maps query ids to (passage id, cosine), best first; `key` are all its settings."""

    key: dict[str, str | int]
    found: dict[str, list[tuple[str, float]]]


def find_candidates(
    collection: Collection, embed: Embed, top_k: int, chunk: int, key: dict[str, str | int]
) -> Candidates:
    """The `top_k` nearest passages of each query; the corpus is embedded `chunk` texts at a time.

    Ties go to the passage that comes first in the corpus.
    """
    names = list(collection.texts)
    queries = list(collection.queries)
    asked = unit(embed(list(collection.queries.values()), "query"))
    best: list[list[tuple[float, int]]] = [[] for _ in queries]
    for start in range(0, len(names), chunk):
        part = names[start : start + chunk]
        vectors = unit(embed([collection.document(name) for name in part], "passage"))
        cosines = asked @ vectors.T
        nearest = np.argsort(-cosines, axis=1, kind="stable")[:, :top_k]
        for row, columns in enumerate(nearest):
            new = [(float(-cosines[row, column]), start + int(column)) for column in columns]
            best[row] = sorted([*best[row], *new])[:top_k]
    found = {
        query: [(names[index], -distance) for distance, index in row]
        for query, row in zip(queries, best, strict=True)
    }
    return Candidates(key=key, found=found)


def read_candidates(file: Path, key: dict[str, str | int]) -> Candidates | None:
    """The candidates of an earlier run with the same `key`; None when there are none."""
    kept = read_json(file, Candidates)
    return kept if kept is not None and kept.key == key else None


def write_candidates(file: Path, candidates: Candidates) -> None:
    """Write the file atomically."""
    write_atomic(file, msgspec.json.encode(candidates) + b"\n")
