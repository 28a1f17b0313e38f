"""Where quality changes from the base to the endpoint: drift.md and drift.svg.

A boundary is a pair of measured neighbours in the chain. It changes quality when NDCG or Recall at
some depth k moves by more than the tolerance, 0.03 below k = 5 and 0.01 from there on (the
tolerances of NVIDIA's rerank recipe, stage 3). It changes the order when the mean over the queries
of Kendall's tau-b is under 0.99. Whether a difference is more than chance is said by `pairs.py`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean

import numpy as np

from exporter.parity import compare_order
from recipe.durable import write_atomic
from recipe.evaluation.collection import Collection
from recipe.evaluation.measured import Measured
from recipe.evaluation.metrics import Scores, measure_each
from recipe.evaluation.pairs import TUNING, Pair, find_pairs, tables
from recipe.evaluation.pictures import drift_picture
from recipe.evaluation.results import Column

LOW_K, LOW_K_TOLERANCE, TOLERANCE = 5, 0.03, 0.01
MIN_TAU = 0.99
# Logits nearer than this are a tie: twice the error that is allowed to an export in fp32.
_GAP = 2e-3
_SHOWN = 5
_LOW_RECALL = 0.8


@dataclass(frozen=True)
class QueryDrift:
    """One query at one boundary: its NDCG before and after, and tau (None: nothing to order)."""

    query: str
    before: float
    after: float
    tau: float | None


@dataclass(frozen=True)
class Boundary:
    """Two neighbours. `deltas` are after − before by metric; `past` are over the tolerance.

    `queries` whose figure or order changed, those that fell first.
    """

    before: str
    after: str
    deltas: dict[str, float]
    past: list[str]
    tau: float | None
    queries: list[QueryDrift]

    @property
    def fallen(self) -> list[str]:
        """The metrics that fell past the tolerance."""
        return [metric for metric in self.past if self.deltas[metric] < 0]

    @property
    def changes_order(self) -> bool:
        """Whether the order of the passages changed, whatever the effect on quality."""
        return self.tau is not None and self.tau < MIN_TAU


@dataclass(frozen=True)
class Drift:
    """All boundaries, the metrics that moved too far, (column, metric), and all pairs of columns.

    A metric is compared with that of its neighbour before, and with that of the chain's first
    member, because several small moves add up.
    """

    boundaries: list[Boundary]
    past: list[tuple[str, str]]
    pairs: list[Pair]

    @property
    def first_change(self) -> Boundary | None:
        """The first boundary at which quality is past the tolerance, by one move or in sum."""
        past = {column for column, _ in self.past}
        return next((one for one in self.boundaries if one.after in past), None)


def tolerance(depth: int) -> float:
    """The allowed move of a metric at this depth."""
    return LOW_K_TOLERANCE if depth < LOW_K else TOLERANCE


def find_drift(chain: Sequence[str], measured: Measured) -> Drift:
    """Compare neighbours of `chain`; each needs a column and scores."""
    boundaries = [boundary(before, after, measured) for before, after in pairwise(chain)]
    past = []
    for one in boundaries:
        since_first = _past(_deltas(chain[0], one.after, measured))
        moved = dict.fromkeys([*one.past, *since_first])
        past += [(one.after, metric) for metric in moved]
    return Drift(boundaries, past, find_pairs(measured))


def write_drift(directory: Path, measured: Measured, drift: Drift) -> None:
    """Write drift.md and drift.svg, each atomically."""
    lines = [
        "# Drift",
        "",
        *_table(measured),
        "",
        *recall_sentences(measured.results, measured.depths),
        "",
        *tables(drift.pairs),
        "",
        *_boundary_table(drift, measured.key),
        "",
        verdict(drift),
        "",
        *_query_tables(drift, measured),
    ]
    write_atomic(directory / "drift.md", "\n".join(lines).encode())
    write_atomic(directory / "drift.svg", _picture(measured, drift))


def recall_sentences(results: Mapping[str, Column], depths: Sequence[int]) -> list[str]:
    """Sentences about the first stage's Recall, which limits the reranker."""
    if "retrieval" not in results:
        return []
    deepest = max(depths)
    recall = results["retrieval"].Recall[f"Recall@{deepest}"]
    sentence = f"Recall@{deepest} before reranking is {recall:.3f}"
    if recall < _LOW_RECALL:
        return [
            f"{sentence}: LOW. A reranker cannot recover passages that the retriever missed; tune "
            "the embedder or the index (or raise top_k) before the reranker."
        ]
    return [f"{sentence}: the relevant passages are among the candidates."]


def boundary(before: str, after: str, measured: Measured) -> Boundary:
    """The step between two measured columns."""
    deltas = _deltas(before, after, measured)
    queries = _query_drifts(measured.scores[before], measured.scores[after], measured)
    taus = [one.tau for one in queries if one.tau is not None]
    tau = fmean(taus) if taus else None
    return Boundary(before, after, deltas, _past(deltas), tau, _changed(queries))


def _worst_first(one: QueryDrift) -> tuple[float, float, str]:
    """Sort key, worst first: by the change of NDCG, then by tau."""
    return one.after - one.before, 1.0 if one.tau is None else one.tau, one.query


def _query_drifts(before: Scores, after: Scores, measured: Measured) -> list[QueryDrift]:
    old, new = (
        measure_each(measured.collection.grades, scores, measured.depths)["NDCG"]
        for scores in (before, after)
    )
    drifts, key = [], measured.key
    for query in sorted(before):
        wanted, found = (
            np.asarray([scores[query][name] for name in before[query]])
            for scores in (before, after)
        )
        tau = compare_order([wanted], [found], _GAP).tau
        drifts.append(QueryDrift(query, old[query][key], new[query][key], tau))
    return drifts


def _changed(queries: Sequence[QueryDrift]) -> list[QueryDrift]:
    """Those whose figure or order changed, worst first."""
    found = [q for q in queries if q.after != q.before or (q.tau is not None and q.tau < 1.0)]
    return sorted(found, key=_worst_first)


def _deltas(before: str, after: str, measured: Measured) -> dict[str, float]:
    old, new = measured.results[before], measured.results[after]
    return {
        key: getattr(new, metric)[key] - getattr(old, metric)[key]
        for metric, key in measured.compared()
    }


def _past(deltas: Mapping[str, float]) -> list[str]:
    return [key for key, by in deltas.items() if abs(by) > tolerance(int(key.split("@")[1]))]


def _table(measured: Measured) -> list[str]:
    keys = measured.compared()
    lines = [
        "| | " + " | ".join(key for _, key in keys) + " | source |",
        "|---|" + "---|" * (len(keys) + 1),
    ]
    for name, column in measured.results.items():
        figures = " | ".join(f"{getattr(column, metric)[key]:.4f}" for metric, key in keys)
        identity = f" ({column.identity})" if column.identity else ""
        lines.append(f"| {name} | {figures} | {column.source}{identity} |")
    return lines


def _boundary_table(drift: Drift, key: str) -> list[str]:
    if not drift.boundaries:
        return ["Nothing to compare yet: the stages export and deploy add their columns."]
    lines = [
        f"| boundary | Δ {key} | largest move, NDCG or Recall | Kendall's tau | past tolerance |",
        "|---|---|---|---|---|",
    ]
    for one in drift.boundaries:
        largest = max(one.deltas, key=lambda metric: abs(one.deltas[metric]))
        tau = "nothing to order" if one.tau is None else f"{one.tau:.4f}"
        lines.append(
            f"| {one.before} → {one.after} | {one.deltas[key]:+.4f} | "
            f"{largest} {one.deltas[largest]:+.4f} | {tau} | {', '.join(one.past) or 'no'} |"
        )
    return lines


def verdict(drift: Drift) -> str:
    """Where quality or order changes, consistent with `drift.past`; "" for one column."""
    if not drift.boundaries:
        return ""
    if (first := drift.first_change) is not None:
        limit = f"by more than {LOW_K_TOLERANCE} (k < {LOW_K}) or {TOLERANCE}"
        if first.past:
            return (
                f"Quality first changes between {first.before} and {first.after}: "
                f"{', '.join(first.past)} moved {limit}."
            )
        moved = ", ".join(metric for column, metric in drift.past if column == first.after)
        return (
            f"Quality changes little by little, first past the tolerance at {first.after}: {moved} "
            f"moved {limit} since {drift.boundaries[0].before}, at no single boundary."
        )
    order = next((b for b in drift.boundaries if b.changes_order), None)
    if order is not None:
        return (
            f"Quality stays within tolerance; the order first changes between {order.before} and "
            f"{order.after} (tau {order.tau:.4f})."
        )
    return "No boundary changes quality or order: every measured column ranks as the first does."


def _query_tables(drift: Drift, measured: Measured) -> list[str]:
    """Worst and best queries, base → fine-tuned first, then at each boundary."""
    steps = [(one.before, one.after, one.queries) for one in drift.boundaries]
    if set(TUNING) <= set(measured.scores):
        before, after = TUNING
        queries = _query_drifts(measured.scores[before], measured.scores[after], measured)
        steps.insert(0, (before, after, _changed(queries)))
    lines: list[str] = []
    for before, after, queries in steps:
        fell, rose = worst_and_best(queries)
        for title, some in (("Worst", fell), ("Best", rose)):
            if some:
                lines += [
                    f"{title} queries, {before} → {after}:",
                    "",
                    f"| query | {measured.key} before | after | tau | text |",
                    "|---|---|---|---|---|",
                    *(_query_line(found, measured.collection) for found in some[:_SHOWN]),
                    "",
                ]
    return lines


def worst_and_best(queries: Sequence[QueryDrift]) -> tuple[list[QueryDrift], list[QueryDrift]]:
    """Those that fell or changed their order, worst first, and those that rose, best first."""
    rose = [one for one in reversed(queries) if one.after > one.before]
    return [one for one in queries if one.after <= one.before], rose


def _query_line(found: QueryDrift, collection: Collection) -> str:
    text = " ".join(collection.queries[found.query].split()).replace("|", "\\|")
    tau = "–" if found.tau is None else f"{found.tau:.4f}"
    return f"| {found.query} | {found.before:.4f} | {found.after:.4f} | {tau} | {text} |"


def _picture(measured: Measured, drift: Drift) -> bytes:
    first = drift.pairs[0] if drift.pairs else None
    return drift_picture(
        (step_name(first.before, first.after), first.gains) if first else ("", {}),
        (
            measured.key,
            {step_name(one.before, one.after): one.gains[one.key] for one in drift.pairs},
        ),
        {step_name(one.before, one.after): one.tau for one in drift.boundaries},
        MIN_TAU,
    )


def step_name(before: str, after: str) -> str:
    """Two columns, as tables and pictures name them."""
    return f"{before} → {after}"
