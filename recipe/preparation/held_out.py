"""What is measured with is never trained on.

Questions for evaluation are removed from training (and from validation), and the passages that
answer them are never negatives there: training them down would spoil, or flatter, the measurement.
Texts are the same when they differ in case, width or white space only.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from recipe.data.rows import normal
from recipe.preparation.split import Material, Question
from recipe.progress import Log

# Each split with those that are held out from it.
HELD_OUT_FROM = {"train": ("val", "test"), "val": ("test",), "test": ()}


def hold_out(material: Material, log: Log) -> Material:
    """`material` without held-out questions, or given negatives that answer one; says how many."""
    for split in ("val", "train"):
        held = {
            normal(one.text) for other in HELD_OUT_FROM[split] for one in getattr(material, other)
        }
        questions: list[Question] = getattr(material, split)
        kept = [one for one in questions if normal(one.text) not in held]
        if twice := [one for one in questions if normal(one.text) in held]:
            log(
                f"left out {len(twice)} question(s) of {split} that are held out for evaluation "
                f"(first: {twice[0].text!r})"
            )
        barred = barred_negatives(material)[split]
        left: dict[str, Any] = {split: _without(kept, barred, split, log)}
        material = replace(material, **left)
    _say_shared(material, log)
    return material


def barred_negatives(material: Material) -> dict[str, frozenset[str]]:
    """For each split, the passages that must not be negatives in it."""
    texts = {name: normal(text) for name, text in material.corpus.items()}
    found = {}
    for split, others in HELD_OUT_FROM.items():
        answers = {texts[name] for other in others for name in _answers(getattr(material, other))}
        found[split] = frozenset(name for name, text in texts.items() if text in answers)
    return found


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
    shared = _answers(material.train) & (_answers(material.test) | _answers(material.val))
    if shared:
        log(
            f"warning: {len(shared)} passage(s) answer both a question of training and a held-out "
            "one; the measurement is milder for it"
        )


def _answers(questions: Sequence[Question]) -> set[str]:
    return {name for one in questions for name in one.positives}
