"""What is measured with is never trained on.

Questions for evaluation are removed from training (and from validation), and the passages that
answer them are never negatives there: training them down would spoil, or flatter, the measurement.
Texts are the same when they differ in case, width or white space only.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from recipe.config import PrepConfig
from recipe.data.rows import Source, digest, normal
from recipe.evaluation.labelled import open_collection
from recipe.preparation.split import Material, Question, convert
from recipe.progress import Log

# Each split with those that are held out from it.
HELD_OUT_FROM = {
    "train": ("val", "test", "elsewhere"),
    "val": ("test", "elsewhere"),
    "test": (),
}


def divided(source: Source, settings: PrepConfig, log: Log) -> Material:
    """Everything that was read, in splits, without what is held out. Raises BadInput."""
    material = convert(source, settings, log)
    measured: list[tuple[str, list[str]]] = []
    for path in settings.hold_out_path:
        found = open_collection(Path(path))
        measured += [(text, found.answer_texts(name)) for name, text in found.queries.items()]
    return hold_out(measured_elsewhere(material, measured), log)


def hold_out(material: Material, log: Log) -> Material:
    """`material` without held-out questions, or given negatives that answer one; says how many."""
    for split in ("val", "train"):
        others = HELD_OUT_FROM[split]
        held = {normal(one.text) for other in others for one in getattr(material, other)}
        kept: list[Question] = []
        twice: dict[str, Question] = {}
        for one in getattr(material, split):
            if (key := normal(one.text)) in held:
                twice[key] = one
            else:
                kept.append(one)
        if twice:
            first = next(iter(twice.values()))
            log(
                f"left out {len(twice)} question(s) of {split} that are held out for evaluation "
                f"(first: {first.text!r})"
            )
        # What answers the question left out answers the one that is measured.
        known: dict[str, Any] = {other: _with(getattr(material, other), twice) for other in others}
        material = replace(material, **known)
        barred = barred_negatives(material)[split]
        left: dict[str, Any] = {split: _without(kept, barred, split, log)}
        material = replace(material, **left)
    _say_shared(material, log)
    return material


def measured_elsewhere(
    material: Material, measured: Iterable[tuple[str, Sequence[str]]]
) -> Material:
    """`material` that knows the questions of other evaluation data, and the texts that answer them.

    `measured` are questions, each with its texts.
    """
    same: dict[str, list[str]] = {}
    for name, text in material.corpus.items():
        same.setdefault(digest(text), []).append(name)
    elsewhere = [
        Question(
            "", asked, (), alike=frozenset(n for one in texts for n in same.get(digest(one), ()))
        )
        for asked, texts in measured
    ]
    return replace(material, elsewhere=elsewhere)


def barred_negatives(material: Material) -> dict[str, frozenset[str]]:
    """For each split, the passages that must not be negatives in it."""
    return {
        split: frozenset(
            name for other in others for one in getattr(material, other) for name in one.answers
        )
        for split, others in HELD_OUT_FROM.items()
    }


def _with(questions: Sequence[Question], twice: Mapping[str, Question]) -> list[Question]:
    """The questions, each knowing what answers the equal one in `twice`."""
    made = []
    for one in questions:
        same = twice.get(normal(one.text))
        more = same.answers.difference(one.positives) if same else frozenset()
        made.append(replace(one, alike=one.alike | more) if more else one)
    return made


def _without(
    questions: Sequence[Question], barred: frozenset[str], split: str, log: Log
) -> list[Question]:
    """The questions without given negatives that are `barred`."""
    dropped, made = 0, []
    for one in questions:
        kept = tuple(name for name in one.negatives if name not in barred)
        dropped += len(one.negatives) - len(kept)
        made.append(replace(one, negatives=kept))
    if dropped:
        log(f"left out {dropped} negative(s) of {split} that answer a held-out question")
    return made


def _say_shared(material: Material, log: Log) -> None:
    held = {
        name for one in (*material.test, *material.val, *material.elsewhere) for name in one.answers
    }
    shared = {name for one in material.train for name in one.positives if name in held}
    if shared:
        log(
            f"warning: {len(shared)} passage(s) answer both a question of training and a held-out "
            "one; the measurement is milder for it"
        )
