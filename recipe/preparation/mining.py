"""Hard negatives: passages that an embedder scores highly, but that are not answers.

For each question, the candidates are the passages that do not answer it, are not barred from its
split, and whose score is at most `margin` × the lowest score of its positives; the highest are
taken. (The margin is the rule of Automodel's miner: a passage with a higher score may be an
unlabelled answer.) Negatives that the data gave come first.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from recipe.device import find_device
from recipe.nearest import BLOCK_QUESTIONS, NOWHERE, Bar, nearest
from recipe.preparation.split import Question
from recipe.vectors import Vectors
from runtime.postprocess import Floats

# Equal vectors may differ by less, where their products are summed in another order.
_SAME_SCORE = 1e-6
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

    `passages` are the vectors of `names`; `barred` are the passages that are no negatives in each
    split.
    """

    def __init__(
        self,
        names: Sequence[str],
        passages: Vectors,
        count: int,
        margin: float,
        barred: Mapping[str, frozenset[str]],
        mining: Mining = "missing",
    ) -> None:
        self._names = names
        self._places = {name: place for place, name in enumerate(names)}
        self._table = passages
        self._count = count
        self._margin = margin
        self._barred = {split: np.zeros(len(names), bool) for split in barred}
        for split, held in barred.items():
            self._barred[split][self._all(held)] = True
        self._mining = mining
        self._device = find_device()

    def __call__(self, part: Part) -> list[Mined]:
        """The questions with their negatives; ties go to the earlier passage.

        `part` is their split, the questions and their unit vectors, float32 [questions, d].
        """
        split, questions, vectors = part
        own = [self._scored(one.positives, v) for one, v in zip(questions, vectors, strict=True)]
        given = [self._scored(one.negatives, v) for one, v in zip(questions, vectors, strict=True)]
        most = [self._margin * min(score for _, score in found) + _SAME_SCORE for found in own]
        counts = [
            wanted_negatives(one, self._count, self._mining) - len(one.negatives)
            for one in questions
        ]
        bar = self._bar(split, questions, most)
        scores, places = nearest(vectors, self._table, max(counts), self._device, bar)
        mined = []
        for row, question in enumerate(questions):
            best = zip(places[row, : counts[row]], scores[row, : counts[row]], strict=True)
            found = [(self._names[p], float(score)) for p, score in best if p != NOWHERE]
            mined.append(Mined(question, _rounded(own[row]), _rounded([*given[row], *found])))
        return mined

    def _all(self, names: Iterable[str]) -> list[int]:
        return [self._places[name] for name in names]

    def _scored(self, names: Sequence[str], vector: Floats) -> list[tuple[str, float]]:
        if not names:
            return []
        scores = self._table.take(self._all(names)) @ vector
        return list(zip(names, scores.tolist(), strict=True))

    def _bar(self, split: str, questions: Sequence[Question], most: Sequence[float]) -> Bar:
        """Bars what scores above `most`, answers the question, is given, or is barred there."""
        import torch  # late: takes seconds

        limits = torch.tensor(most, device=self._device)[:, None]
        barred = torch.from_numpy(self._barred[split]).to(self._device)
        known = [self._all([*one.positives, *one.alike, *one.negatives]) for one in questions]
        each = torch.tensor([len(places) for places in known], device=self._device)
        row = torch.arange(len(known), device=self._device).repeat_interleave(each)
        place = torch.tensor([one for places in known for one in places], device=self._device)

        def bar(scores: Any, start: int) -> None:
            stop = start + scores.shape[1]
            scores[scores > limits] = -torch.inf
            scores[:, barred[start:stop]] = -torch.inf
            here = (place >= start) & (place < stop)
            scores[row[here], place[here] - start] = -torch.inf

        return bar


def parts(split: str, questions: Sequence[Question], asked: Vectors) -> Iterator[Part]:
    """Questions with their vectors, as many as are compared with the passages at a time."""
    for start in range(0, len(questions), BLOCK_QUESTIONS):
        some = questions[start : start + BLOCK_QUESTIONS]
        yield split, some, asked.read(start, start + len(some))


def _rounded(scored: Iterable[tuple[str, float]]) -> list[tuple[str, float | None]]:
    return [(name, round(score, 6)) for name, score in scored]


def rows_of(mined: Sequence[tuple[str, float | None]]) -> list[dict[str, Any]]:
    """Passages as Automodel's files hold them: {"id", "score"}, without a score that is None."""
    return [
        {"id": name} if score is None else {"id": name, "score": score} for name, score in mined
    ]
