"""Hard negatives: passages that an embedder scores highly, but that are not answers.

For each question, the candidates are the passages that are not its positives and whose score is at
most `margin` × the lowest score of its positives; the highest are taken. (The rule of Automodel's
miner: a passage with a higher score may be an unlabelled answer.)
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from recipe.preparation.records import Question
from runtime.postprocess import Floats

_QUESTIONS_AT_ONCE = 256


@dataclass(frozen=True)
class Mined:
    """A question with the scores of its passages: (id, score) each, negatives best first."""

    question: Question
    positives: list[tuple[str, float]]
    negatives: list[tuple[str, float]]


class Miner:
    """Mines questions against one table of passages; may run in its own process.

    `passages` float32 [names, d] are unit vectors. Each question is computed alone, so that its
    result does not depend on the batch.
    """

    def __init__(self, names: Sequence[str], passages: Floats, count: int, margin: float) -> None:
        self._names = names
        self._places = {name: place for place, name in enumerate(names)}
        self._table = passages.astype(np.float64)
        self._count = count
        self._margin = margin

    def __call__(self, part: tuple[Sequence[Question], Floats]) -> list[Mined]:
        """At most `count` negatives for each question; ties go to the earlier passage.

        `part` is questions and their unit vectors, float32 [questions, d].
        """
        return [self._mine(*one) for one in zip(*part, strict=True)]

    def _mine(self, question: Question, vector: Floats) -> Mined:
        scores = self._table @ vector.astype(np.float64)
        own = [self._places[name] for name in question.positives]
        allowed = scores <= self._margin * scores[own].min()
        allowed[own] = False
        candidates = np.flatnonzero(allowed)
        best = candidates[np.argsort(-scores[candidates], kind="stable")][: self._count]

        def scored(places: Iterable[int]) -> list[tuple[str, float]]:
            return [(self._names[place], round(float(scores[place]), 6)) for place in places]

        return Mined(question, scored(own), scored(best))


def parts(questions: Sequence[Question], asked: Floats) -> Iterator[tuple[Any, Floats]]:
    """Questions with their vectors in chunks large enough to send to another process."""
    for start in range(0, len(questions), _QUESTIONS_AT_ONCE):
        stop = start + _QUESTIONS_AT_ONCE
        yield questions[start:stop], asked[start:stop]
