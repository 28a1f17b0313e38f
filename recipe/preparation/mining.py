"""Hard negatives: passages that an embedder takes for answers, and that are none.

For each question, passages are candidates that are not its own and whose score is at most
`margin` × the lowest score of its own; the highest are taken. (The rule of Automodel's miner:
what scores nearer than that may well be an unmarked answer.)
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from recipe.preparation.records import Question
from runtime.postprocess import Floats

# Bounds the table of scores, 8 bytes × questions × passages.
_QUESTIONS_AT_ONCE = 256


@dataclass(frozen=True)
class Mined:
    """A question with the scores of its passages: (id, score) each, negatives best first."""

    question: Question
    positives: list[tuple[str, float]]
    negatives: list[tuple[str, float]]


def mine(
    questions: Sequence[Question],
    asked: Floats,
    names: Sequence[str],
    passages: Floats,
    *,
    count: int,
    margin: float,
) -> list[Mined]:
    """At most `count` negatives for each question; ties fall to the earlier passage.

    `asked` float32 [questions, d] and `passages` float32 [names, d] are unit vectors. Each row is
    computed alone, so that it does not matter in which company a question is mined.
    """
    places = {name: place for place, name in enumerate(names)}
    table = passages.astype(np.float64)
    found = []
    for start in range(0, len(questions), _QUESTIONS_AT_ONCE):
        part = questions[start : start + _QUESTIONS_AT_ONCE]
        for question, vector in zip(part, asked[start:].astype(np.float64), strict=False):
            scores = table @ vector
            own = [places[name] for name in question.positives]
            allowed = scores <= margin * scores[own].min()
            allowed[own] = False
            candidates = np.flatnonzero(allowed)
            best = candidates[np.argsort(-scores[candidates], kind="stable")][:count]
            found.append(
                Mined(
                    question,
                    [(names[place], _rounded(scores[place])) for place in own],
                    [(names[place], _rounded(scores[place])) for place in best],
                )
            )
    return found


def _rounded(score: float) -> float:
    return round(float(score), 6)
