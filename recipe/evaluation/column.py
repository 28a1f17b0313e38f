"""Measure one model: score every query's candidates, keep the scores, compute the metrics."""

from collections.abc import Sequence
from pathlib import Path

import msgspec

from recipe.durable import Journal
from recipe.errors import BadInput
from recipe.evaluation.candidates import Candidates
from recipe.evaluation.collection import Collection
from recipe.evaluation.metrics import measure
from recipe.evaluation.results import Basis, Column
from recipe.evaluation.scorers import Scorer
from recipe.progress import Log, Progress

SCORES_FOLDER = "scores"


class _Head(msgspec.Struct, frozen=True):
    """The first line of a score file: its scores are valid while all of this is the same."""

    identity: str
    basis: Basis


class _Row(msgspec.Struct, frozen=True):
    """One query's logits, in the order of its candidates."""

    query: str
    logits: list[float]


def measure_column(
    name: str,
    scorer: Scorer,
    collection: Collection,
    candidates: Candidates,
    basis: Basis,
    depths: Sequence[int],
    directory: Path,
    log: Log,
) -> Column:
    """Rerank every query's candidates with `scorer` and measure the order.

    Scores are appended to scores/<name>.jsonl query by query; an interrupted run continues there.
    """
    file = directory / SCORES_FOLDER / f"{name}.jsonl"
    journal = _journal(file)
    head = _Head(scorer.identity, basis)
    kept = journal.read()
    # An endpoint may serve another model by now: always measure it again.
    if not kept or kept[0] != head or not scorer.identity:
        file.unlink(missing_ok=True)
        kept = []
    done = {row.query for row in kept if isinstance(row, _Row)}
    progress = Progress(f"{name}, queries", len(candidates.found), log, len(done))
    with journal.open() as output:
        if not kept:
            output.write(head)
        for query, found in candidates.found.items():
            if query in done:
                continue
            passages = [collection.texts[document] for document, _ in found]
            output.write(_Row(query, scorer.score(collection.queries[query], passages)))
            progress.step()
    scores = read_scores(directory, name, candidates)
    metrics = measure(collection.grades, scores, depths)
    return Column(**metrics, source=scorer.source, identity=scorer.identity, basis=basis)


def _journal(file: Path) -> Journal[_Head | _Row]:
    return Journal(file, _Row, _Head)


def read_scores(directory: Path, name: str, candidates: Candidates) -> dict[str, dict[str, float]]:
    """For each query, the logit of each candidate by id, as measured for the column `name`.

    Raises BadInput when the scores of a query are missing, OutputRefused for a damaged file.
    """
    file = directory / SCORES_FOLDER / f"{name}.jsonl"
    rows = [row for row in _journal(file).read() if isinstance(row, _Row)]
    counts = {query: len(found) for query, found in candidates.found.items()}
    if {row.query: len(row.logits) for row in rows} != counts:
        raise BadInput(
            f"{file} holds the scores of {len(rows)} of {len(candidates.found)} queries; run the "
            f"stage that measures the column {name} again"
        )
    return {
        row.query: {
            document: logit
            for (document, _), logit in zip(candidates.found[row.query], row.logits, strict=True)
        }
        for row in rows
    }
