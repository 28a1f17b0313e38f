"""What a scheduler has computed since its start."""

from collections.abc import Sequence
from dataclasses import astuple, dataclass, replace

from runtime.postprocess import EngineCall
from runtime.scheduling.request import Row


@dataclass(frozen=True)
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
        """Both together."""
        pairs = zip(astuple(self), astuple(other), strict=True)
        return SchedulerStats(*(one + two for one, two in pairs))

    def after(self, rows: Sequence[Row], call: EngineCall, *, failed: bool) -> "SchedulerStats":
        """The same and one more call, of these rows."""
        if failed:
            return replace(self, failed_count=self.failed_count + len(rows))
        return replace(
            self,
            inference_count=self.inference_count + len(rows),
            execution_count=self.execution_count + 1,
            real_tokens=self.real_tokens + call.real_tokens,
            computed_tokens=self.computed_tokens + call.computed_tokens,
            engine_s=self.engine_s + call.ended - call.began,
            queue_s=self.queue_s + sum(call.began - row.request.submitted for row in rows),
        )
