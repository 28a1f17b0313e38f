"""The service that all routes share: settings, metrics, the served models, and their health.

server.loading opens the models, server.reloading replaces them.
"""

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from runtime.embedder import Embedder
from runtime.model import Model
from runtime.profile import Kind
from runtime.ranker import Ranker
from server.connection import BodyBudget
from server.errors import KindNotServed, NotReady
from server.metrics import Metrics
from server.served import Served
from server.settings import Settings
from server.tracing import open_tracing

# The body budget: this many bodies of the largest size, and at least this many bytes, so that a
# small body limit does not let fewer requests wait.
_BODIES_AT_ONCE = 8
_ROOM_FOR_BODIES = 256 << 20
_KIND_NAMES: Mapping[Kind, tuple[str, str]] = {
    "rank": ("reranker", "--rank"),
    "embed": ("embedder", "--embed"),
}


@dataclass(frozen=True)
class HealthState:
    """A snapshot of the service's health: every model has answered a real inference (`loaded`), no
    fault needs a new process (`live`), a remote engine is unreachable, the process is stopping."""

    loaded: bool
    live: bool
    engine_unreachable: bool
    stopping: bool

    @property
    def ready(self) -> bool:
        """Whether the service should get requests."""
        return self.loaded and self.live and not self.engine_unreachable and not self.stopping


class Service:
    """One for each process. `stopping` is set when shutdown begins: the service is not ready any
    more, but still answers requests. `loaded` says whether every model answered a real inference.

    `models` are served by kind; `warming` is a model that warms up for the first time, where it may
    hang; `reload_lock` is held by the one reload that runs.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.stopping = False
        self.loaded = False
        self.models: dict[Kind, Served] = {}
        self.warming: Model | None = None
        self.reload_lock = threading.Lock()
        self.body_budget = BodyBudget(
            max(_BODIES_AT_ONCE * settings.body_limit_bytes, _ROOM_FOR_BODIES)
        )
        self.tracing = open_tracing(settings)
        self.metrics = Metrics(self.models.values)

    def health_state(self) -> HealthState:
        """A snapshot for the health routes."""
        return HealthState(self.loaded, self.live, self.engine_unreachable, self.stopping)

    @property
    def ready(self) -> bool:
        """Whether the service should get requests."""
        return self.health_state().ready

    @property
    def engine_unreachable(self) -> bool:
        """Whether a remote engine is unreachable. The watchdog polls it until it is reachable."""
        return any(served.model.scheduler.unreachable for served in list(self.models.values()))

    @property
    def live(self) -> bool:
        """Liveness: no engine hangs, no engine thread has ended, and no device is lost."""
        return self.stopping or self.find_fault() is None

    def find_fault(self) -> tuple[Kind, str] | None:
        """The kind of a model with a fault, and the fault; None without one."""
        models = [served.model for served in list(self.models.values())]
        for model in (*models, self.warming):
            if model is not None and (fault := model.fault(self.settings.engine_patience_s)):
                return model.info.kind, fault
        return None

    @property
    def all_served(self) -> list[Served]:
        """Every model, the reranker first; NotReady before all are loaded."""
        if not self.loaded:
            raise NotReady
        return [self.models[kind] for kind in _KIND_NAMES if kind in self.models]

    @property
    def primary(self) -> Served:
        """The model that health and metadata describe."""
        return self.all_served[0]

    def served(self, kind: Kind) -> Served:
        """The model of `kind`; NotReady while models load, KindNotServed when there is none."""
        if not self.loaded:
            raise NotReady
        if kind not in self.models:
            raise KindNotServed(*_KIND_NAMES[kind])
        return self.models[kind]

    @property
    def ranker(self) -> Ranker:
        """The reranker. Raises as `served` does."""
        return cast(Ranker, self.served("rank").model)

    @property
    def embedder(self) -> Embedder:
        """The embedder. Raises as `served` does."""
        return cast(Embedder, self.served("embed").model)

    def close(self) -> None:
        """Answer all waiting requests and close the models."""
        self.stopping = True
        for served in list(self.models.values()):
            if served.before is not None:
                served.before.close()
            served.model.close()
