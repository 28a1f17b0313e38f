"""What a model was asked through this server, counted by request."""

import time
from dataclasses import dataclass

from runtime.postprocess import Timing


@dataclass
class Tally:
    """Requests that a model answered and failed, and their time in seconds.

    `tokenize_s`, `queue_s` and `engine_s` are of answered requests; `last_at` is the time of the
    last request in seconds since 1970, 0 before the first.
    """

    answered: int = 0
    failed: int = 0
    answered_s: float = 0.0
    failed_s: float = 0.0
    tokenize_s: float = 0.0
    queue_s: float = 0.0
    engine_s: float = 0.0
    last_at: float = 0.0

    def count_success(self, seconds: float, timing: Timing) -> None:
        """One answered request."""
        self.answered += 1
        self.answered_s += seconds
        self.tokenize_s += timing.tokenize_ms / 1e3
        self.queue_s += timing.queue_ms / 1e3
        self.engine_s += timing.engine_ms / 1e3
        self.last_at = time.time()

    def count_failure(self, seconds: float) -> None:
        """One request without an answer, whoever was to blame."""
        self.failed += 1
        self.failed_s += seconds
        self.last_at = time.time()
