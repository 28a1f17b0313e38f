"""From logits to answers: order, relevance, timing as plain values."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Timing:
    """Where one request's time went, in milliseconds.

    `queue_ms` runs from submission to the start of the request's first engine call, `engine_ms`
    from there to the end of its last one.
    """

    tokenize_ms: float
    queue_ms: float
    engine_ms: float
    total_ms: float


@dataclass(frozen=True)
class Ranking:
    """The answer to one ranking request over n passages.

    `logits` float32 [n] raw model outputs in the order of the passages; `order` int64 [n]
    passage indexes by descending logit, ties in the order given; `token_counts` int64 [n] tokens
    of each pair as scored, special tokens included, padding not; `truncated` passages cut.
    """

    logits: Floats
    order: Ints
    token_counts: Ints
    truncated: int
    timing: Timing


def descending(logits: Floats) -> Ints:
    """Indexes that sort `logits` [n] downwards, equal ones in their given order."""
    return np.argsort(-logits, kind="stable").astype(np.int64)
