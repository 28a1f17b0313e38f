"""The first stage: for every query, the nearest passages of a dense retriever.

The search is exact over normalised vectors, so that a score is a cosine. The result is kept in
candidates.json: every column of the results reranks exactly the same passages.
"""

from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from recipe.corpus_images import Document
from recipe.device import find_device
from recipe.durable import read_json, write_atomic
from recipe.evaluation.collection import Collection
from recipe.nearest import BLOCK_QUESTIONS, BLOCK_ROWS, nearest
from recipe.progress import Log, Progress
from recipe.vectors import Vectors
from runtime.postprocess import InputType

# Texts, and passages with images → their vectors.
Embed = Callable[[Sequence[Document], InputType], Vectors]
CANDIDATES_FILE = "candidates.json"


class Candidates(msgspec.Struct, frozen=True, kw_only=True):
    """`found` maps query ids to (passage id, cosine), best first; `key` are all its settings."""

    key: dict[str, str | int]
    found: dict[str, list[tuple[str, float]]]


def find_candidates(
    collection: Collection,
    embed: Embed,
    top_k: int,
    chunk: int,
    key: dict[str, str | int],
    log: Log,
) -> Candidates:
    """The `top_k` nearest passages of each query; at most `chunk` passages are compared at a time.

    Ties go to the passage that comes first in the corpus.
    """
    names, queries = list(collection.texts), list(collection.queries)
    asked = embed(list(collection.queries.values()), "query")
    table = embed([collection.document(name) for name in names], "passage")
    count, rows, device = min(top_k, len(names)), min(chunk, BLOCK_ROWS), find_device()
    progress = Progress("retrieve, queries", len(queries), log)
    found: dict[str, list[tuple[str, float]]] = {}
    for start in range(0, len(queries), BLOCK_QUESTIONS):
        some = queries[start : start + BLOCK_QUESTIONS]
        vectors = asked.read(start, start + len(some))
        scores, places = nearest(vectors, table, count, device, rows=rows)
        for query, row, best in zip(some, places.tolist(), scores.tolist(), strict=True):
            found[query] = [(names[place], score) for place, score in zip(row, best, strict=True)]
        progress.step(len(some))
    return Candidates(key=key, found=found)


def read_candidates(file: Path, key: dict[str, str | int]) -> Candidates | None:
    """The candidates of an earlier run with the same `key`; None when there are none."""
    kept = read_json(file, Candidates)
    return kept if kept is not None and kept.key == key else None


def write_candidates(file: Path, candidates: Candidates) -> None:
    """Write the file atomically."""
    write_atomic(file, msgspec.json.encode(candidates) + b"\n")
