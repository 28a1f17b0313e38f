"""Training data: a query with one positive passage and several negatives.

Usually the file that the stage prep writes (`train_mined.automodel_unrolled.json`, one record for
each positive, hardest negatives first); any other form that `recipe/data` reads will do when each
question has enough negatives.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from recipe.data.reading import Reading, read
from recipe.data.rows import Broken, Row, Source, normal
from recipe.errors import BadInput
from recipe.progress import Log


@dataclass(frozen=True)
class Group:
    """One training example; the first of `passages` is the positive."""

    question_id: str
    query: str
    passages: tuple[str, ...]


def read_groups(
    file: Path, passages: int, held_out: Path | None = None, log: Log = lambda _: None
) -> list[Group]:
    """The groups of `file`: each positive with the first `passages` - 1 negatives of its record.

    Questions of `held_out` (validation data) are left out, and so are negatives that answer one.
    Raises BadInput for what is no training data, unknown passages and too few negatives.
    """
    source = read_training(file)
    rows = source.rows
    if held_out is not None:
        rows = _without(source, read_training(held_out), log)
    if not rows:
        raise BadInput(
            f"{file} holds no examples; lower quality_threshold of the stage prep, or give it more "
            "data"
        )
    _refuse_few(file, rows, passages)
    most = max(len(row.negatives) for row in rows)
    if most > passages - 1:
        log(
            f"of up to {most} negatives, each example takes its first {passages - 1} "
            f"(train_n_passages = {passages})"
        )
    groups = [group for row in rows for group in _groups(row, source, passages)]
    if asked := len(groups) - len({normal(group.query) for group in groups}):
        log(f"{asked} example(s) repeat a question, once for each passage that answers it")
    return groups


def read_training(file: Path) -> Source:
    """The rows of a training file. Raises BadInput."""
    if not file.exists():
        raise BadInput(
            f"found no training data at {file}; run the stage prep first, or set train_data_path"
        )
    broken = Broken(0, key=None)
    source = read(str(file), Reading(), broken, lambda _: None)
    broken.settle(file, lambda _: None)
    return source


def _without(source: Source, held: Source, log: Log) -> list[Row]:
    """The rows of `source` that ask and train down nothing of `held`."""
    questions = {normal(row.question) for row in held.rows}
    answers = {normal(held.texts[name]) for row in held.rows for name in row.positives}
    barred = {name for name, text in source.texts.items() if normal(text) in answers}
    rows = [row for row in source.rows if normal(row.question) not in questions]
    if left := len(source.rows) - len(rows):
        log(f"left out {left} example(s) that ask a question of the validation data")
    kept = [
        replace(row, negatives=tuple(name for name in row.negatives if name not in barred))
        for row in rows
    ]
    dropped = sum(len(a.negatives) - len(b.negatives) for a, b in zip(rows, kept, strict=True))
    if dropped:
        log(f"left out {dropped} negative(s) that answer a question of the validation data")
    return kept


def _refuse_few(file: Path, rows: list[Row], passages: int) -> None:
    short = [row for row in rows if len(row.negatives) < passages - 1 or not row.positives]
    if not short:
        return
    first = short[0]
    raise BadInput(
        f"{len(short)} of {len(rows)} examples in {file.name} have too few passages (first: "
        f"{first.id} with {len(first.positives)} positive and {len(first.negatives)} negative); "
        f"wanted 1 and {passages - 1}, as train_n_passages = {passages} says: mine them with "
        f"`rerank prep data={file}` (hard_negatives_to_mine), or lower train_n_passages"
    )


def _groups(row: Row, source: Source, passages: int) -> list[Group]:
    negatives = tuple(source.texts[name] for name in row.negatives[: passages - 1])
    ids = [f"{row.id}_{number}" for number in range(len(row.positives))]
    return [
        Group(
            str(row.id) if len(row.positives) == 1 else name,
            row.question,
            (source.texts[positive], *negatives),
        )
        for name, positive in zip(ids, row.positives, strict=True)
    ]
