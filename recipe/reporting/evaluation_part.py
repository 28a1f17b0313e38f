"""The parts of the page about quality: columns, differences, scores, queries, seeds, guard set."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from xml.etree.ElementTree import Element

import numpy as np

from recipe.errors import BadInput
from recipe.evaluate import seed_checkpoint, seed_column
from recipe.evaluation import drift
from recipe.evaluation.measured import Measured
from recipe.evaluation.pairs import (
    GAIN_HEAD,
    TUNING,
    Pair,
    find_pairs,
    gain_cells,
    known_pairs,
    method,
    sentences,
    worsening,
)
from recipe.evaluation.pictures import draw_gains, draw_moves, draw_order, gains_height
from recipe.evaluation.results import CHAIN, RETRIEVAL, read_results
from recipe.evaluation.scorers import fingerprint
from recipe.evaluation.session import Session, open_session
from recipe.evaluation.spread import spread_head, spread_rows
from recipe.reporting import charts
from recipe.reporting.markup import Content, element, folded, foreign, table
from recipe.reporting.runs import StageRun

_SHOWN = 8
_PERCENTILES = (5, 50, 95)


@dataclass(frozen=True)
class Evaluated:
    """A measured folder: its session, columns, and all differences that stand in the results."""

    session: Session
    measured: Measured
    pairs: Sequence[Pair]

    def pair(self, before: str, after: str) -> Pair | None:
        """The differences of two columns, where both were measured."""
        return next((p for p in self.pairs if (p.before, p.after) == (before, after)), None)


def read_evaluated(folder: Path) -> Evaluated:
    """What was measured in the folder. Raises BadInput or OutputRefused."""
    session = open_session(folder)
    results = read_results(folder)
    if not results:
        raise BadInput(f"nothing was measured in {folder} yet")
    measured = session.measured(results)
    # Columns of an earlier version do not hold their differences.
    return Evaluated(session, measured, known_pairs(measured) or find_pairs(measured))


def verdict(found: Evaluated, of: str = "") -> Element:
    """Whether the fine-tuned model ranks better than the base, in words; `of` names the data.

    It is worse where any measure is, as for the stage eval.
    """
    pair = found.pair(*TUNING)
    if pair is None:
        text = f"{of}Base and fine-tuned model were not both measured."
        return element("p", text, class_="absent")
    said = sentences(pair)
    if pair.worse not in ([], [pair.key]):
        said.append(f"{worsening(pair)}.")
    word = "worse" if pair.worse else pair.said(pair.key)
    kind = word if word in ("better", "worse") else "same"
    return element("p", of + " ".join(said), class_=f"verdict {kind}")


def left_behind(found: Evaluated) -> list[Element]:
    """That the fine-tuned checkpoint is not, or no longer, the one that was measured."""
    column = found.measured.results.get("finetuned")
    if column is None:
        return []
    path = Path(column.source)
    if not path.is_dir():
        text = f"The checkpoint that was measured, {path}, is no longer there."
    elif fingerprint(path) != column.identity:
        text = (
            f"The checkpoint in {path} is not the one that was measured ({column.identity}): what "
            "is said of training is not about these figures. Run the stage eval again."
        )
    else:
        return []
    return [element("p", text, class_="absent")]


def columns_part(found: Evaluated) -> list[Element]:
    """Each column's figures, and its difference from the column before it."""
    keys = found.measured.compared()
    head = ["column", *(key for _, key in keys), "source"]
    figures: list[list[Content]] = [
        [
            name,
            *(f"{getattr(column, metric)[key]:.4f}" for metric, key in keys),
            foreign(column.source + (f" ({column.identity})" if column.identity else "")),
        ]
        for name, column in found.measured.results.items()
    ]
    steps = [pair for one in _steps(found) if (pair := found.pair(*one)) is not None]
    parts = [table("Figures of each column", head, figures)]
    if steps:
        gains = {drift.step_name(p.before, p.after): p.gains[p.key] for p in steps}
        said = "; ".join(f"{name} {gain.difference:+.4f}" for name, gain in gains.items())
        title = f"Difference of {steps[0].key} at each step, training first"
        parts += [
            charts.chart(
                title, said, lambda axes: draw_gains(axes, gains), gains_height(len(steps))
            ),
            _gain_table(title, [(drift.step_name(p.before, p.after), p.key, p) for p in steps]),
        ]
    return parts


def tuning_part(found: Evaluated) -> list[Element]:
    """Base → fine-tuned at every measure, and the other pairs at the quoted one."""
    pair = found.pair(*TUNING)
    if pair is None:
        return []
    said = "; ".join(f"{key} {gain.difference:+.4f}" for key, gain in pair.gains.items())
    title = "Fine-tuned less base, at each measure"
    others = [(drift.step_name(p.before, p.after), p.key, p) for p in found.pairs]
    return [
        charts.chart(
            title, said, lambda axes: draw_gains(axes, pair.gains), gains_height(len(pair.gains))
        ),
        _gain_table(title, [(key, key, pair) for key in pair.gains]),
        element("p", method(pair)),
        folded("Every pair of columns", _gain_table(f"{pair.key} of every pair", others)),
    ]


def scores_part(found: Evaluated) -> list[Element]:
    """How scores and their order change: of each column, and at each step."""
    measured = found.measured
    spans = []
    for name in (one for one in measured.results if one != RETRIEVAL):
        every = _logits(measured, name)
        low, middle, high = np.percentile(every, _PERCENTILES)
        places = (f"{one:+.3f}" for one in (every.mean(), low, middle, high))
        spans.append([name, *places, f"{every.std():.3f}"])
    parts = [
        element(
            "p",
            "A threshold on scores that was set for one column holds for another only where their "
            "scores are alike.",
        ),
        table(
            "Logits of all candidates",
            ["column", "mean", "5 %", "median", "95 %", "standard deviation"],
            spans,
        ),
    ]
    steps = [one for one in _steps(found) if RETRIEVAL not in one]
    if not steps:
        return parts
    boundaries = [drift.boundary(before, after, measured) for before, after in steps]
    names = [drift.step_name(one.before, one.after) for one in boundaries]
    rows = []
    for name, one in zip(names, boundaries, strict=True):
        moved = np.abs(_logits(measured, one.after) - _logits(measured, one.before))
        tau = "–" if one.tau is None else f"{one.tau:.4f}"
        rows.append([name, f"{moved.max():.2g}", f"{moved.mean():.2g}", tau])
    head = ["step", "largest change of a logit", "mean change", "Kendall's tau"]
    parts.append(table("Changes of scores", head, rows))
    # Training is meant to change the order; what follows is not.
    kept = {
        name: one.tau
        for name, one in zip(names, boundaries, strict=True)
        if (one.before, one.after) != TUNING
    }
    if kept:
        said = "; ".join(f"{row[0]}: tau {row[3]}" for row in rows if row[0] in kept)
        parts.append(
            charts.chart(
                "Order of the passages after training",
                said,
                lambda axes: draw_order(axes, kept, drift.MIN_TAU),
                gains_height(len(kept)),
            )
        )
    return parts


def queries_part(found: Evaluated) -> list[Element]:
    """The queries that moved at the first step: how far, and the worst and best of them."""
    steps = [one for one in _steps(found) if RETRIEVAL not in one]
    if not steps:
        return [element("p", "One model was measured: no query can move.", class_="absent")]
    before, after = steps[0]
    name, key = drift.step_name(before, after), found.measured.key
    queries = drift.boundary(before, after, found.measured).queries
    moves = [one.after - one.before for one in queries]
    won, lost = sum(move > 0 for move in moves), sum(move < 0 for move in moves)
    every = len(found.measured.collection.queries)
    said = f"{won} queries won, {lost} lost, {every - won - lost} stayed"
    changed, rose = drift.worst_and_best(queries)
    fell = [one for one in changed if one.after < one.before]
    parts = [
        charts.chart(
            f"Queries that moved, {name}", said, lambda axes: draw_moves(axes, moves, key)
        ),
        element("p", f"{name}, by {key}: {said}."),
    ]
    for title, some in (("Worst", fell), ("Best", rose)):
        if some:
            parts.append(
                table(
                    f"{title} queries, {name}",
                    ["query", "before", "after", "tau", "id"],
                    [_query_row(one, found.measured) for one in some[:_SHOWN]],
                )
            )
    return parts


def seeds_part(stage: StageRun, found: Evaluated) -> list[Element]:
    """Mean and spread of all seeds; nothing for one."""
    count = stage.settings.get("seeds", 1)
    results = found.measured.results
    if count == 1 or "finetuned" not in results:
        return [element("p", "One seed was measured: seeds=3 gives a spread.", class_="absent")]
    columns = [results["finetuned"]]
    for number in range(1, count):
        path = seed_checkpoint(Path(stage.settings["finetuned_model_path"]), number)
        name = seed_column(number)
        # Of a checkpoint that was removed, the scores are those that were measured last.
        identity = fingerprint(path) if path.is_dir() else None
        columns.append(found.session.column(name, str(path), identity))
    rows = spread_rows(results.get("base"), columns)
    return [table(f"Fine-tuned with {count} seeds", spread_head(count), rows)]


def guard_part(found: Evaluated) -> list[Element]:
    """What the model must not forget: the same comparison on the second set."""
    data = foreign(found.session.setting.eval_data_path)
    return [element("p", "Data: ", data), verdict(found), *tuning_part(found)]


def _steps(found: Evaluated) -> list[tuple[str, str]]:
    """Base → fine-tuned first, then neighbours from the first stage to the endpoint."""
    results = found.measured.results
    before = [one for one in (RETRIEVAL, "base") if one in results]
    chain = [one for one in CHAIN if one in results]
    steps: Iterable[tuple[str, str]] = pairwise([*before, *chain])
    return sorted(steps, key=lambda step: step != TUNING)


def _logits(measured: Measured, name: str) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    """Of all candidates of all queries, in an order that all columns share."""
    scores = measured.scores[name]
    return np.array([scores[q][passage] for q in sorted(scores) for passage in sorted(scores[q])])


def _gain_table(caption: str, rows: Sequence[tuple[str, str, Pair]]) -> Element:
    head = ["", *GAIN_HEAD]
    return table(caption, head, [[title, *gain_cells(key, pair)] for title, key, pair in rows])


def _query_row(one: drift.QueryDrift, measured: Measured) -> list[Content]:
    tau = "–" if one.tau is None else f"{one.tau:.4f}"
    text = foreign(measured.collection.queries[one.query])
    return [text, f"{one.before:.4f}", f"{one.after:.4f}", tau, one.query]
