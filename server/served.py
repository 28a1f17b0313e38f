"""A served model, its names and counters, and the model that it replaced."""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from runtime.model import Model
from runtime.scheduling.stats import SchedulerStats
from runtime.vision.stats import ImageStats
from server.names import AcceptedNames
from server.tally import Tally


@dataclass(frozen=True)
class Served:
    """A served model: its name in /v1/models, its directory (None: the mock) and its request
    counters.

    `before` is the model that it replaced, while that one answers its last requests. `ended` and
    `ended_images` are the counters of all that have ended: counters must never go back.
    """

    model: Model
    name: str
    directory: Path | None
    tally: Tally = field(default_factory=Tally)
    before: Model | None = None
    ended: SchedulerStats = field(default_factory=SchedulerStats)
    ended_images: ImageStats = field(default_factory=ImageStats)

    @cached_property
    def accepted_names(self) -> AcceptedNames:
        """The names that requests may use."""
        info = self.model.info
        return AcceptedNames(self.name, info.kind, images=info.images)

    def stats(self) -> SchedulerStats:
        """Counters of rows and engine calls since the start, its predecessors' included."""
        return sum((model.scheduler.stats() for model in self._running()), self.ended)

    def image_stats(self) -> ImageStats:
        """`stats` of images."""
        return sum((model.image_stats() for model in self._running()), self.ended_images)

    def _running(self) -> list[Model]:
        return [self.model] if self.before is None else [self.model, self.before]
