"""Hard negatives: passages that an embedder scores highly, but that are not answers.

For each question, the candidates are the passages that are not its positives, not barred from its
split, and whose score is at most `margin` × the lowest score of its positives; the highest are
taken. (The margin is the rule of Automodel's miner: a passage with a higher score may be an
unlabelled answer.) Negatives that the data gave come first.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from recipe.preparation.split import Question
from runtime.postprocess import Floats

_QUESTIONS_AT_ONCE = 256
Part = tuple[str, Sequence[Question], Floats]
# What is mined beside given negatives: what is missing of the count, the whole count, nothing.
Mining = Literal["missing", "all", "none"]


@dataclass(frozen=True)
class Mined:
    """A question with the scores of its passages: (id, score) each, negatives best first.

    Scores are None where nothing was mined.
    """

    question: Question
    positives: list[tuple[str, float | None]]
    negatives: list[tuple[str, float | None]]


def wanted_negatives(question: Question, count: int, mining: Mining) -> int:
    """The number of negatives, given and mined, that a question must have to be trained on."""
    given = len(question.negatives)
    return {"missing": max(count, given), "all": given + count, "none": max(1, given)}[mining]


def as_given(question: Question) -> Mined:
    """The question with its own negatives only."""
    return Mined(
        question,
        [(name, None) for name in question.positives],
        [(name, None) for name in question.negatives],
    )


class Miner:
    """Mines questions against one table of passages; may run in its own process.

    `passages` float32 [names, d] are unit vectors; `barred` are the passages that are no negatives
    in each split. Each question is computed alone, so that its result does not depend on the batch.
    """

    def __init__(
        self,
        names: Sequence[str],
        passages: Floats,
        count: int,
        margin: float,
        barred: Mapping[str, frozenset[str]],
        mining: Mining = "missing",
    ) -> None:
        self._names = names
        self._places = {name: place for place, name in enumerate(names)}
        self._table = passages.astype(np.float64)
        self._count = count
        self._margin = margin
        self._barred = {
            split: np.fromiter((self._places[name] for name in sorted(held)), np.int64)
            for split, held in barred.items()
        }
        self._mining = mining

    def __call__(self, part: Part) -> list[Mined]:
        """The questions with their negatives; ties go to the earlier passage.

        `part` is their split, the questions and their unit vectors, float32 [questions, d].
        """
        split, questions, vectors = part
        return [self._mine(split, *one) for one in zip(questions, vectors, strict=True)]

    def _mine(self, split: str, question: Question, vector: Floats) -> Mined:
        scores = self._table @ vector.astype(np.float64)
        own = [self._places[name] for name in question.positives]
        given = [self._places[name] for name in question.negatives]
        allowed = scores <= self._margin * scores[own].min()
        for places in (own, given, self._barred[split]):
            allowed[places] = False
        candidates = np.flatnonzero(allowed)
        count = wanted_negatives(question, self._count, self._mining) - len(given)
        best = candidates[np.argsort(-scores[candidates], kind="stable")][:count]

        def scored(places: Iterable[int]) -> list[tuple[str, float | None]]:
            return [(self._names[place], round(float(scores[place]), 6)) for place in places]

        return Mined(question, scored(own), [*scored(given), *scored(best)])


def parts(split: str, questions: Sequence[Question], asked: Floats) -> Iterator[Part]:
    """Questions with their vectors in chunks large enough to send to another process."""
    for start in range(0, len(questions), _QUESTIONS_AT_ONCE):
        stop = start + _QUESTIONS_AT_ONCE
        yield split, questions[start:stop], asked[start:stop]


def rows_of(mined: Sequence[tuple[str, float | None]]) -> list[dict[str, Any]]:
    """Passages as Automodel's files hold them: {"id", "score"}, without a score that is None."""
    return [
        {"id": name} if score is None else {"id": name, "score": score} for name, score in mined
    ]
