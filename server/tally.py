"""What a model was asked through this server, counted by request."""

import time
from dataclasses import dataclass, field
from typing import Literal, get_args

from runtime.postprocess import Embeddings, Ranking

# refused: no room, too late, or the server ends; cancelled: the caller left; failed: all else that
# is no answer, the caller's own mistakes included.
Outcome = Literal["answered", "failed", "cancelled", "refused"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


def _zeros() -> dict[Outcome, int]:
    return dict.fromkeys(OUTCOMES, 0)


@dataclass
class Tally:
    """Requests that a model received, their outcomes, and their time in seconds.

    `received` is counted when a request comes and an outcome when it goes: at any moment the
    outcomes and the requests in flight together are those received, and what was accepted is
    what was not refused. `tokenize_s`, `queue_s` and `engine_s` are of answered requests, as are
    `rows` and `tokens`; `truncated` counts their texts that were cut. `last_at` is the time of the
    last request in seconds since 1970, 0 before the first.
    """

    received: int = 0
    outcomes: dict[Outcome, int] = field(default_factory=_zeros)
    # Of the failures, those that the engine is to blame for.
    engine_faults: int = 0
    answered_s: float = 0.0
    failed_s: float = 0.0
    tokenize_s: float = 0.0
    queue_s: float = 0.0
    engine_s: float = 0.0
    rows: int = 0
    tokens: int = 0
    truncated: int = 0
    last_at: float = 0.0

    @property
    def answered(self) -> int:
        """Requests that got their answer."""
        return self.outcomes["answered"]

    @property
    def failed(self) -> int:
        """Requests without an answer, whoever was to blame."""
        return sum(self.outcomes.values()) - self.answered

    @property
    def in_flight(self) -> int:
        """Requests that came and have no outcome yet."""
        return self.received - sum(self.outcomes.values())

    def count_arrival(self) -> None:
        """One request that came."""
        self.received += 1

    def count_success(self, seconds: float, answer: Ranking | Embeddings) -> None:
        """One answered request."""
        timing = answer.timing
        self.outcomes["answered"] += 1
        self.rows += len(answer.token_counts)
        self.tokens += int(answer.token_counts.sum())
        self.truncated += answer.truncated
        self.answered_s += seconds
        self.tokenize_s += timing.tokenize_ms / 1e3
        self.queue_s += timing.queue_ms / 1e3
        self.engine_s += timing.engine_ms / 1e3
        self.last_at = time.time()

    def count_failure(self, seconds: float, outcome: Outcome, *, engine_fault: bool) -> None:
        """One request without an answer."""
        self.outcomes[outcome] += 1
        self.engine_faults += engine_fault
        self.failed_s += seconds
        self.last_at = time.time()
