"""Fidelity: the difference of scores from the reference, in value and in order."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.results import Fidelity
from checks.beir import candidates, ndcg
from exporter.parity import compare_order
from recipe.evaluation.collection import read_collection

CRANFIELD = Path("../shared/data/cranfield")
# Reference scores nearer than this are ties: rounding must not decide them.
TIE = 2e-3
_TOP = 10

Scores = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Judged:
    """A query of a collection, BM25's passages for it with their ids, and the grades of the whole
    collection by id."""

    query: str
    passages: list[str]
    ids: list[str]
    grades: dict[str, int]


def judged_queries(folder: Path, count: int) -> list[Judged]:
    """The first `count` judged queries of `folder`; none when it does not exist."""
    if not folder.is_dir() or not count:
        return []
    collection = read_collection(folder)
    texts, queries, grades = collection.texts, collection.queries, collection.grades
    return [
        Judged(queries[query], [texts[name] for name in ids], ids, grades[query])
        for query, ids in candidates(collection, count).items()
    ]


def compare(reference: Sequence[float], found: Sequence[float]) -> Fidelity:
    """The fidelity on the bench's own passages."""
    wanted, have = np.asarray(reference, dtype=np.float64), np.asarray(found, dtype=np.float64)
    best = min(_TOP, len(wanted))
    shared = set(np.argsort(-wanted)[:best].tolist()) & set(np.argsort(-have)[:best].tolist())
    return Fidelity(
        pairs=len(wanted),
        max_abs_delta=float(np.abs(wanted - have).max()),
        reference_std=float(wanted.std()),
        tau=kendall_tau(wanted, have),
        top10=len(shared) / best,
    )


def add_collection(
    fidelity: Fidelity,
    judged: Sequence[Judged],
    reference: Sequence[Sequence[float]],
    found: Sequence[Sequence[float]],
) -> None:
    """Add the fidelity on the queries of a collection; scores by query."""
    taus, figures = [], []
    for one, wanted, have in zip(judged, reference, found, strict=True):
        taus.append(kendall_tau(np.asarray(wanted), np.asarray(have)))
        figures.append((_ndcg(one, wanted), _ndcg(one, have)))
    plain, theirs = np.mean(figures, axis=0)
    fidelity.cranfield_tau = float(np.mean(taus))
    fidelity.ndcg = float(theirs)
    fidelity.ndcg_drift = float(theirs - plain)


def kendall_tau(reference: Scores, found: Scores) -> float:
    """Kendall's tau-b over the pairs that are no ties in the reference; 1.0 without any."""
    tau = compare_order([reference], [found], TIE).tau
    return 1.0 if tau is None else tau


def _ndcg(judged: Judged, scores: Sequence[float]) -> float:
    order = np.argsort(-np.asarray(scores), kind="stable").tolist()
    (figure,) = ndcg({"": [judged.ids[place] for place in order]}, {"": judged.grades})
    return figure
