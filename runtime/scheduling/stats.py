"""Counters of a scheduler since its start."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass

from runtime.postprocess import EngineCall
from runtime.scheduling.request import Row


@dataclass
class SchedulerStats:
    """Counters since the start. `inference_count` rows and `execution_count` engine calls that
    succeeded, `failed_count` rows whose call failed, `real_tokens` and `computed_tokens` (padding
    included) of successful calls, `engine_s` and `queue_s` seconds summed over calls and rows."""

    inference_count: int = 0
    execution_count: int = 0
    failed_count: int = 0
    real_tokens: int = 0
    computed_tokens: int = 0
    engine_s: float = 0.0
    queue_s: float = 0.0

    def __add__(self, other: "SchedulerStats") -> "SchedulerStats":
        """The sum of both."""
        pairs = zip(astuple(self), astuple(other), strict=True)
        return SchedulerStats(*(one + two for one, two in pairs))

    def count(self, rows: Sequence[Row], call: EngineCall, *, failed: bool) -> None:
        """Count one call of these rows."""
        if failed:
            self.failed_count += len(rows)
            return
        self.inference_count += len(rows)
        self.execution_count += 1
        self.real_tokens += call.real_tokens
        self.computed_tokens += call.computed_tokens
        self.engine_s += call.ended - call.began
        self.queue_s += sum(call.began - row.request.submitted for row in rows)
