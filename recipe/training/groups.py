"""Training data: a query with one positive passage and several negatives.

Usually the file that the stage prep writes (`train_mined.automodel_unrolled.json`, one record for
each positive, hardest negatives first); any other form that `recipe/data` reads will do when each
question has enough negatives.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from recipe.data.reading import Reading, read
from recipe.data.rows import Broken, Row, Source, digest, normal
from recipe.errors import BadInput
from recipe.progress import Log


@dataclass(frozen=True)
class Group:
    """One training example; the first of `passages` is the positive.

    `scores` are the teacher's logits of the passages; empty without a teacher.
    """

    question_id: str
    query: str
    passages: tuple[str, ...]
    scores: tuple[float, ...] = ()


def read_groups(
    file: Path,
    passages: int,
    held_out: Path | None = None,
    log: Log = lambda _: None,
    split: Literal["train", "val"] = "train",
    every: bool = False,
) -> list[Group]:
    """The groups of `file`: each positive with the first `passages` - 1 negatives of its record, or
    with `every` one of them, which are at least as many.

    Of data that name splits, these are the rows of `split`, or else the ones without a name.
    Questions that the file itself holds out and those of `held_out` (validation data) are left out,
    and so are negatives that answer one, or the group's own question. Raises BadInput for what is
    no training data, unknown passages and too few negatives.
    """
    source = read_training(file)
    rows = _without(source, _of_split(source, split, file), _held_out(source, split, held_out), log)
    if not rows:
        raise BadInput(
            f"{file} holds no examples; lower quality_threshold of the stage prep, or give it more "
            "data"
        )
    _refuse_few(file, rows, passages)
    most = max(len(row.negatives) for row in rows)
    if most > passages - 1:
        taken = (
            f"draws {passages - 1} in each epoch" if every else f"takes its first {passages - 1}"
        )
        log(f"of up to {most} negatives, each example {taken} (train_n_passages = {passages})")
    count = most if every else passages - 1
    groups = [group for row in rows for group in _groups(row, source, count)]
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


def _of_split(source: Source, split: str, file: Path) -> list[Row]:
    """The rows for training, or for validation. Raises BadInput where all are named otherwise."""
    named = {row.split for row in source.rows}
    wanted = {split} if split == "val" and split in named else {split, None}
    rows = [row for row in source.rows if row.split in wanted]
    if source.rows and not rows:
        key = "train_data_path" if split == "train" else "val_data_path"
        raise BadInput(
            f"found only rows of {' and '.join(sorted(map(str, named)))} in {file}, wanted some of "
            f"{split}, or without a split's name, for {key}; `rerank prep data={file}` divides "
            "them, or rename what names the split"
        )
    return rows


def _held_out(source: Source, split: str, other: Path | None) -> Iterator[tuple[Source, Row]]:
    """The rows that are not for training (or for validation), with the source of each."""
    for row in source.rows:
        if row.split == "test" or (row.split == "val" and split == "train"):
            yield source, row
    if other is not None:
        held = read_training(other)
        tests = [row for row in held.rows if row.split == "test"]
        for row in (*_of_split(held, "val", other), *tests):
            yield held, row


def _without(
    source: Source, rows: list[Row], held: Iterable[tuple[Source, Row]], log: Log
) -> list[Row]:
    """The `rows` of `source` that ask and train down nothing of `held`, nor their own answers."""
    questions: set[str] = set()
    barred: set[str] = set()
    for origin, row in held:
        questions.add(digest(row.question))
        barred |= {digest(origin.texts[name]) for name in row.positives}
    texts = {name: digest(text) for name, text in source.texts.items()}
    own: dict[str, set[str]] = {}
    for row in rows:
        answers = own.setdefault(digest(row.question), set())
        answers |= {texts[name] for name in row.positives}
    # What answers a question that is left out answers the one that is held out.
    barred = barred.union(*(own[question] for question in questions & own.keys()))
    kept = [row for row in rows if digest(row.question) not in questions]
    if left := len(rows) - len(kept):
        log(f"left out {left} example(s) that ask a question that is held out")
    made, dropped = [], 0
    for row in kept:
        answers = own[digest(row.question)]
        fine = [name for name in row.negatives if texts[name] not in answers]
        negatives = tuple(name for name in fine if texts[name] not in barred)
        dropped += len(fine) - len(negatives)
        made.append(replace(row, negatives=negatives))
    if dropped:
        log(f"left out {dropped} negative(s) that answer a question that is held out")
    return made


def _refuse_few(file: Path, rows: list[Row], passages: int) -> None:
    short = [row for row in rows if len(row.negatives) < passages - 1 or not row.positives]
    if not short:
        return
    first = short[0]
    raise BadInput(
        f"{len(short)} of {len(rows)} examples in {file.name} have too few passages (first: "
        f"{first.id} with {len(first.positives)} positive and {len(first.negatives)} negative, "
        "without those that answer it or a question that is held out); "
        f"wanted 1 and {passages - 1}, as train_n_passages = {passages} says: mine them with "
        f"`rerank prep data={file}` (hard_negatives_to_mine), or lower train_n_passages"
    )


def _groups(row: Row, source: Source, count: int) -> list[Group]:
    negatives = tuple(source.texts[name] for name in row.negatives[:count])
    ids = [f"{row.id}_{number}" for number in range(len(row.positives))]
    return [
        Group(
            str(row.id) if len(row.positives) == 1 else name,
            row.question,
            (source.texts[positive], *negatives),
        )
        for name, positive in zip(ids, row.positives, strict=True)
    ]
