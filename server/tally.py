"""Request counters of a model."""

import time
from dataclasses import dataclass, field
from typing import Literal, get_args

from runtime.postprocess import Embeddings, Ranking

# refused: queue full, would be late, or shutdown. cancelled: the client disconnected. failed: any
# other error, the client's own included.
Outcome = Literal["answered", "failed", "cancelled", "refused"]
OUTCOMES: tuple[Outcome, ...] = get_args(Outcome)


@dataclass
class Tally:
    """Requests that a model received, their outcomes, and their time in seconds.

    `received` is counted on arrival and an outcome at the end: at any moment, received = outcomes +
    in flight. Accepted requests are those that were not refused. `tokenize_s`, `queue_s`,
    `engine_s`, `rows` and `tokens` are sums over answered requests; `truncated` counts their
    truncated texts. `last_at` is the time of the last request in seconds since 1970, 0 before the
    first.
    """

    received: int = 0
    outcomes: dict[Outcome, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))
    # Failures caused by the engine.
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
        """Answered requests."""
        return self.outcomes["answered"]

    @property
    def failed(self) -> int:
        """Requests without an answer, whatever the cause."""
        return sum(self.outcomes.values()) - self.answered

    @property
    def in_flight(self) -> int:
        """Requests without an outcome yet."""
        return self.received - sum(self.outcomes.values())

    def count_arrival(self) -> None:
        """Count an arriving request."""
        self.received += 1

    def count_success(self, seconds: float, answer: Ranking | Embeddings) -> None:
        """Count an answered request."""
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
        """Count a request without an answer."""
        self.outcomes[outcome] += 1
        self.engine_faults += engine_fault
        self.failed_s += seconds
        self.last_at = time.time()
