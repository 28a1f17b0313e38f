"""Rows → one corpus, and questions in splits."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from recipe.config import PrepConfig
from recipe.data.rows import SPLITS, Row, Source, normal, question_id
from recipe.errors import BadInput
from recipe.progress import Log


@dataclass(frozen=True)
class Question:
    """A question, the ids of the passages that answer it, best first, and given negatives.

    `grades` are those of the positives; `metadata` goes into the evaluation set.
    """

    id: str
    text: str
    positives: tuple[str, ...]
    negatives: tuple[str, ...] = ()
    grades: tuple[int, ...] = ()
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Material:
    """`corpus` maps passage ids to texts, in the order of the data; all splits share it."""

    corpus: dict[str, str]
    train: list[Question]
    val: list[Question]
    test: list[Question]


def convert(source: Source, settings: PrepConfig, log: Log) -> Material:
    """Keep rows that score at least `quality_threshold`, split them, and join equal questions.

    Splits that the data name are kept. Where they name no test (or val) questions, these are cut
    from the others by the ratios; rows that share a group's name stay together, so do equal
    questions. Raises BadInput when there is too little for the splits.
    """
    rows = [
        row
        for row in source.rows
        if row.quality is None or row.quality >= settings.quality_threshold
    ]
    splits = _splits(source.rows, rows, settings, log)
    divided: dict[str, list[Row]] = {split: [] for split in SPLITS}
    for row, split in zip(rows, splits, strict=True):
        if row.positives or row.negatives:
            divided[split].append(row)
    joined = {split: join(held, settings.max_pos_docs) for split, held in divided.items()}
    made = {split: [one for one in found if one.positives] for split, found in joined.items()}
    asked, answered = (sum(map(len, one.values())) for one in (joined, made))
    if repeated := sum(map(len, divided.values())) - asked:
        log(f"joined {repeated} row(s) with an earlier one of the same question")
    if asked > answered:
        log(f"left out {asked - answered} question(s) without a passage that answers them")
    _refuse_empty(made, settings)
    return Material(source.texts, **made)


def with_ids(material: Material) -> Material:
    """`material` with an id for each question, which no other has.

    One without an id in the data gets q0, q1, … in the order of the material.
    """
    number, seen, splits = 0, set[str](), {}
    for split in SPLITS:
        named = []
        for one in getattr(material, split):
            name = one.id or f"q{number}"
            name = question_id(one.text) if name in seen else name
            seen.add(name)
            named.append(replace(one, id=name))
            number += 1
        splits[split] = named
    return Material(material.corpus, **splits)


def join(rows: Iterable[Row], most: int | None = None) -> list[Question]:
    """The questions of `rows`, each once, with at most `most` positives."""
    same: dict[str, list[Row]] = {}
    for row in rows:
        same.setdefault(normal(row.question), []).append(row)
    return [_joined(found, most) for found in same.values()]


def _joined(rows: Sequence[Row], most: int | None) -> Question:
    grades: dict[str, int] = {}
    for row in rows:
        for name, grade in zip(row.positives, row.grades or [1] * len(row.positives), strict=True):
            if name in grades or most is None or len(grades) < most:
                grades[name] = max(grade, grades.get(name, 0))
    positives = {name for row in rows for name in row.positives}
    negatives = dict.fromkeys(name for row in rows for name in row.negatives)
    return Question(
        id=next((row.id for row in rows if row.id), ""),
        text=rows[0].question,
        positives=tuple(grades),
        negatives=tuple(name for name in negatives if name not in positives),
        grades=tuple(grades.values()),
        metadata=dict(rows[0].metadata),
    )


def _splits(every: Sequence[Row], rows: Sequence[Row], settings: PrepConfig, log: Log) -> list[str]:
    """The split of each of `rows`; depends on the data and the seed only."""
    named = {row.split for row in rows if row.split}
    if named == {"test"} and all(row.split for row in rows):
        log("the data name test questions only: they are divided by the ratios")
        named = set()
    wanted = {"test": settings.test_ratio, "val": settings.val_ratio}
    cut = {} if settings.all_train else {s: r for s, r in wanted.items() if r and s not in named}
    groups = _groups(every)
    free = sorted(
        {
            groups[index]
            for index, row in enumerate(every)
            if not named or row.split in (None, "train")
        }
    )
    places = _cut(free, cut, settings.seed)
    chosen = {id(row): groups[index] for index, row in enumerate(every)}
    return [
        (row.split if named and row.split in ("val", "test") else None)
        or places.get(chosen[id(row)], "train")
        for row in rows
    ]


def _groups(rows: Sequence[Row]) -> list[str]:
    """For each row the name of its group: rows that share a name are in one split.

    Without names, rows with the same question are a group.
    """
    leader: dict[str, str] = {}

    def find(name: str) -> str:
        while leader.setdefault(name, name) != name:
            leader[name] = leader[leader[name]]
            name = leader[name]
        return name

    names = [row.group or (normal(row.question),) for row in rows]
    for name, *others in names:
        first = find(name)
        for other in others:
            leader[find(other)] = first
    return [find(name) for name, *_ in names]


def _cut(groups: list[str], ratios: dict[str, float], seed: int) -> dict[str, str]:
    """The split of each group: as many for "test" and "val" as `ratios` say, the rest "train"."""
    random.Random(seed).shuffle(groups)
    counts = {split: max(1, round(len(groups) * ratio)) for split, ratio in ratios.items()}
    cut = sum(counts.values())
    if cut and len(groups) <= cut:
        raise BadInput(
            f"found {len(groups)} separate group(s) of questions (those of one document, or equal "
            f"ones), wanted more than {cut}: training and evaluation must not share one; give "
            "more documents or questions"
        )
    names = [split for split, number in counts.items() for _ in range(number)]
    return dict(zip(groups, [*names, *["train"] * (len(groups) - cut)], strict=True))


def _refuse_empty(made: dict[str, list[Question]], settings: PrepConfig) -> None:
    wanted = {"train": 1.0, "val": settings.val_ratio, "test": settings.test_ratio}
    for split, ratio in wanted.items():
        if ratio and not made[split] and not (settings.all_train and split != "train"):
            raise BadInput(
                f"found no question for {split} with a passage that answers it (where a judge "
                f"scored them: at least quality_threshold = {settings.quality_threshold}); lower "
                "it, or give more data"
            )
