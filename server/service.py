"""The service that all routes share: settings, metrics, the models from loading to shutdown, and
the engine watchdog.
"""

import logging
import os
import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NoReturn, cast

from runtime.artifact import closed_on_error
from runtime.embedder import Embedder
from runtime.errors import ArtifactError, EngineError, ModelClosed, ServingError
from runtime.manifest import MANIFEST_FILE
from runtime.model import Model
from runtime.opening import ModelLimits, mock_model, open_model
from runtime.profile import Kind, load_model_profile
from runtime.ranker import Ranker
from runtime.scheduling.stats import SchedulerStats
from runtime.selection import AUTO, ONNX
from server.connection import BodyBudget
from server.errors import KindNotServed, NotReady, ReloadInProgress
from server.memory import map_large_blocks, trim_heap
from server.metrics import Metrics
from server.names import AcceptedNames
from server.process_limits import find_exceeded_limit
from server.settings import Settings
from server.tally import Tally
from server.tracing import open_tracing
from server.variables import TRITON

_log = logging.getLogger(__name__)

# The body budget: this many bodies of the largest size, and at least this many bytes, so that a
# small body limit does not let fewer requests wait.
_BODIES_AT_ONCE = 8
_ROOM_FOR_BODIES = 256 << 20
# How often a replaced model is checked for running requests.
_RETIRE_POLL_S = 0.05
# A request that took the model just before it was replaced has begun after this time.
_RETIRE_DELAY_S = 2.0
# How often the watchdogs check a model that a reload warms up, and all served engines.
_RELOAD_WATCHDOG_INTERVAL_S = 0.2
_WATCHDOG_INTERVAL_S = 1.0
# Opening a model reads files and compiles for minutes at most; a lost disk may hang for ever.
_OPEN_TIMEOUT_S = 1800.0

_KIND_NAMES: Mapping[Kind, tuple[str, str]] = {
    "rank": ("reranker", "--rank"),
    "embed": ("embedder", "--embed"),
}


class Predecessor:
    """A replaced model, whose counters still count: they must never go back. Without a `model`, the
    sum of all that have ended, with the counters `final`."""

    def __init__(self, model: Model | None, final: SchedulerStats | None = None) -> None:
        self._model = model
        self._final = final or SchedulerStats()

    @property
    def ended(self) -> bool:
        """Whether it has answered its last request."""
        return self._model is None

    def stats(self) -> SchedulerStats:
        """Its counters, during its last requests and afterwards."""
        model = self._model
        return self._final if model is None else model.scheduler.stats()

    def close(self) -> None:
        """Answer its waiting requests with ModelClosed."""
        model = self._model
        if model is not None:
            model.close()

    def retire(self, within_s: float) -> None:
        """Close the model when its requests are answered, at the latest after `within_s`."""
        model = self._model
        if model is None:
            return
        end = time.monotonic() + within_s
        time.sleep(_RETIRE_DELAY_S)
        while not model.idle() and time.monotonic() < end:
            time.sleep(_RETIRE_POLL_S)
        try:
            model.close()
        finally:  # the next reload waits for it
            self._final = model.scheduler.stats()
            self._model = None


def _merge_ended(before: tuple[Predecessor, ...]) -> tuple[Predecessor, ...]:
    """Merge the predecessors that have ended into one."""
    ended = [one for one in before if one.ended]
    together = sum((one.stats() for one in ended), SchedulerStats())
    return (Predecessor(None, together), *(one for one in before if one not in ended))


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


@dataclass(frozen=True)
class Served:
    """A served model: its name in /v1/models, the names that requests may use, its directory (None:
    the mock), its request counters, and the models that it replaced (`before`)."""

    model: Model
    name: str
    accepted_names: AcceptedNames
    directory: Path | None
    tally: Tally = field(default_factory=Tally)
    before: tuple[Predecessor, ...] = ()

    def stats(self) -> SchedulerStats:
        """Counters of rows and engine calls since the start, its predecessors' included."""
        return sum((one.stats() for one in self.before), self.model.scheduler.stats())


class Service:
    """One for each process. `stopping` is set when shutdown begins: the service is not ready any
    more, but still answers requests."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.stopping = False
        self._served: dict[Kind, Served] = {}
        self._all_loaded = False
        # The model that warms up for the first time, where it may hang.
        self._warming: Model | None = None
        self._reloading = threading.Lock()
        self.body_budget = BodyBudget(
            max(_BODIES_AT_ONCE * settings.body_limit_bytes, _ROOM_FOR_BODIES)
        )
        self.tracing = open_tracing(settings)
        self.metrics = Metrics(lambda: self._served.values())

    @property
    def loaded(self) -> bool:
        """Whether every model answered a real inference."""
        return self._all_loaded

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
        return any(served.model.scheduler.unreachable for served in list(self._served.values()))

    @property
    def live(self) -> bool:
        """Liveness: no engine hangs, no engine thread has ended, and no device is lost."""
        return self.stopping or self._find_fault() is None

    def _find_fault(self) -> tuple[Kind, str] | None:
        """The kind of a model with a fault, and the fault; None without one."""
        models = [served.model for served in list(self._served.values())]
        if self._warming is not None:
            models.append(self._warming)
        for model in models:
            fault = model.fault(self.settings.engine_patience_s)
            if fault is not None:
                return model.info.kind, fault
        return None

    @property
    def all_served(self) -> list[Served]:
        """Every model, the reranker first; NotReady before all are loaded."""
        if not self._all_loaded:
            raise NotReady
        return [self._served[kind] for kind in _KIND_NAMES if kind in self._served]

    @property
    def primary(self) -> Served:
        """The model that health and metadata describe."""
        return self.all_served[0]

    def served(self, kind: Kind) -> Served:
        """The model of `kind`; NotReady while models load, KindNotServed when there is none."""
        if not self._all_loaded:
            raise NotReady
        if kind not in self._served:
            raise KindNotServed(*_KIND_NAMES[kind])
        return self._served[kind]

    @property
    def ranker(self) -> Ranker:
        """The reranker. Raises as `served` does."""
        return cast(Ranker, self.served("rank").model)

    @property
    def embedder(self) -> Embedder:
        """The embedder. Raises as `served` does."""
        return cast(Embedder, self.served("embed").model)

    def start(self) -> None:
        """Log the settings' notices, and start the thread that loads the models and the engine
        watchdog.

        The threads are daemons, so that a stopping process does not wait for a model to load.
        """
        for notice in self.settings.notices:
            _log.warning("%s", notice)
        map_large_blocks()
        for name, work in (
            ("model-loader", self._load),
            ("engine-watchdog", self._run_watchdog),
        ):
            threading.Thread(target=work, name=name, daemon=True).start()

    def close(self) -> None:
        """Answer all waiting requests and close the models."""
        self.stopping = True
        for served in list(self._served.values()):
            for one in served.before:
                one.close()
            served.model.close()

    def reload(self, kind: Kind, *, wait: bool = False) -> None:
        """Open the model of `kind` again, warm it up, and swap it in. The old model answers the
        requests that it has.

        Call it in a thread of its own: it takes as long as a start, and the memory of one more
        model, for which it first waits until earlier predecessors have ended. One reload runs at a
        time; another one waits, or raises ReloadInProgress. A proven model is only replaced by a
        proven one, which may have another name.

        Raises NotReady, KindNotServed, ModelClosed, what opening raises, and EngineError for an
        engine that hangs in its first calls. The old model is still served then.
        """
        if not self._reloading.acquire(blocking=wait):
            raise ReloadInProgress
        try:
            with self.metrics.counting_reload(kind):
                before = self.served(kind)
                self._await_predecessors()
                model = self._open_proven(kind, before)
                with closed_on_error(model):
                    replaced = self._swap(kind, before, model)
        finally:
            self._reloading.release()
        _log_model(model)
        try:
            threading.Thread(target=self._retire, args=(replaced,), daemon=True).start()
        except RuntimeError:  # no thread can be started: wait in this one
            self._retire(replaced)

    def _swap(self, kind: Kind, before: Served, model: Model) -> Predecessor:
        """Serve `model` instead of the model of `before`. Raises ModelClosed."""
        model.scheduler.on_engine_call(partial(self.metrics.observe_call, kind))
        model.inherit_estimates(before.model)
        own = self.settings.served_name if before is self.primary else None
        name = own or model.info.model_id
        replaced = Predecessor(before.model)
        self._served[kind] = replace(
            before,
            model=model,
            name=name,
            accepted_names=AcceptedNames(name, kind),
            before=(*_merge_ended(before.before), replaced),
        )
        if self.stopping:  # `close` may have missed the new model
            raise ModelClosed
        if name != before.name:
            _log.warning("%s: served as %s from now on, not as %s", kind, name, before.name)
        return replaced

    def _await_predecessors(self) -> None:
        """Wait until all predecessors have ended, so that a reload needs the memory of only one
        more model. Raises ModelClosed."""
        while any(not one.ended for served in self._served.values() for one in served.before):
            if self.stopping:
                raise ModelClosed
            time.sleep(_RETIRE_POLL_S)

    def _open_proven(self, kind: Kind, before: Served) -> Model:
        """Open and warm up the model that replaces `before`."""
        model = _open_with_timeout(self.settings, kind, before.directory, alone=self._is_alone)
        try:
            if model.info.kind != kind:
                raise ArtifactError(f"found kind {model.info.kind}, wanted {kind}")
            if before.model.info.proven and not model.info.proven:
                raise ArtifactError(
                    f"found no {MANIFEST_FILE}, wanted an artifact: the served model is proven, "
                    "and only a proven one may replace it"
                )
            with self._reload_watchdog(model):
                model.warm_up()
            if self.stopping:
                raise ModelClosed
        except BaseException:
            model.close()
            self._reclaim_memory()
            raise
        return model

    @contextmanager
    def _reload_watchdog(self, model: Model) -> Iterator[None]:
        """A watchdog for a reload: close the new `model` if it hangs in the block, or if the
        process stops. The served model goes on."""
        over = threading.Event()
        faults: list[str] = []

        def watch() -> None:
            while not over.wait(_RELOAD_WATCHDOG_INTERVAL_S):
                fault = model.fault(self.settings.engine_patience_s)
                if fault is not None:
                    faults.append(fault)
                if fault is not None or self.stopping:
                    model.close()
                    return

        watching = threading.Thread(target=watch, name="reload-watchdog", daemon=True)
        watching.start()
        try:
            yield
        except ModelClosed:
            if not faults:
                raise
        finally:
            over.set()
            watching.join()
        # A hanging call may have ended while the model was being closed.
        if faults:
            raise EngineError(f"the new model does not compute: {faults[0]}")

    def _retire(self, replaced: Predecessor) -> None:
        replaced.retire(self.settings.request_timeout_s)
        self._reclaim_memory()

    def _reclaim_memory(self) -> None:
        """After a model is closed: trim the heap, and reset limits that other models lowered when
        they were out of memory."""
        trim_heap()
        for served in list(self._served.values()):
            served.model.reset_limits()

    def _run_watchdog(self) -> None:
        """The watchdog thread: log engine faults, and poll unreachable engines, because they get no
        requests until they are reachable."""
        last_reasons: dict[Kind, str] = {}
        lost = False
        while not self.stopping:
            time.sleep(_WATCHDOG_INTERVAL_S)
            faulty = self._find_fault()
            # `stopping` is checked after the fault: closed models also have ended threads.
            if faulty is not None and not lost and not self.stopping:
                _log.critical("%s: %s; the process must be restarted", *faulty)
            lost = faulty is not None
            for kind, served in list(self._served.items()):
                if served.model.scheduler.unreachable:
                    last_reasons[kind] = _reconnect(served.model, last_reasons.get(kind, ""))

    @property
    def _is_alone(self) -> bool:
        return len(_directories(self.settings)) == 1

    def _load(self) -> None:
        try:
            for model, directory in _open_all(self.settings):
                self._add(model, directory)
        except ServingError as error:
            given = ", ".join(self.settings.model_args) or "nothing else"
            reason = find_exceeded_limit(error) or error
            abort_start(f"cannot serve the model: {reason} (given: {given})")
        except BaseException as error:  # a Rust panic of the tokenizer is not an Exception
            limit = find_exceeded_limit(error)
            if limit is None:
                _log.exception("loading the model failed unexpectedly")
            abort_start("cannot serve the model" + (f": {limit}" if limit else ""))
        else:
            self._all_loaded = True

    def _add(self, model: Model, directory: Path | None) -> None:
        self._warming = model
        with closed_on_error(model):
            model.warm_up()
        self._warming = None
        _log_model(model)
        # The reranker is loaded first; the setting names the first model.
        own = self.settings.served_name if not self._served else None
        name = own or model.info.model_id
        kind = model.info.kind
        model.scheduler.on_engine_call(partial(self.metrics.observe_call, kind))
        self._served[kind] = Served(model, name, AcceptedNames(name, kind), directory)


def _reconnect(model: Model, last_reason: str) -> str:
    """Poll an unreachable engine. Returns why it is still unreachable, or "". The reason is logged
    as a warning unless it is `last_reason`."""
    try:
        model.reconnect()
    except Exception as error:  # whatever it is, the engine is polled again
        known = isinstance(error, ServingError)
        reason = str(error) if known else f"{type(error).__name__}: {error}"
        level = logging.DEBUG if reason == last_reason else logging.WARNING
        _log.log(level, "%s: not ready, polled again every second: %s", model.info.kind, reason)
        return reason
    _log.info("%s: the engine is reachable again", model.info.kind)
    return ""


def abort_start(reason: str) -> NoReturn:
    """Log `reason` and end the process with status 1, from any thread.

    Nothing is served yet, so nothing is lost. A process that never becomes ready would only delay
    its orchestrator.
    """
    _log.critical("%s", reason)
    logging.shutdown()
    os._exit(1)


def _open_all(settings: Settings) -> Iterator[tuple[Model, Path | None]]:
    """Open every model of the settings, the reranker first; yields it with its directory."""
    directories = _directories(settings)
    for kind, directory in directories:
        yield _open(settings, kind, directory, alone=len(directories) == 1), directory


def _open(settings: Settings, kind: Kind | None, directory: Path | None, alone: bool) -> Model:
    """Open the model of `kind` in `directory`; the mock without a directory."""
    bounds = ModelLimits(
        max_tokens=settings.max_tokens,
        max_rows=settings.max_rows,
        queue_rows=settings.queue_rows,
        queue_tokens=settings.queue_tokens,
        window_s=settings.batch_window_us * 1e-6,
    )
    # Triton's repository holds the reranker only.
    triton = None if kind == "embed" else settings.triton_engine
    if directory is None:
        return mock_model(kind or "rank", triton, **bounds)
    choice = settings.target if settings.target in (AUTO, ONNX) else None
    return open_model(
        directory,
        kind=kind,
        engine=triton or choice,
        target=None if choice or settings.target == TRITON else settings.target,
        profile=_profile_for(kind, settings, alone=alone),
        cache=settings.cache_dir,
        memory_bytes=settings.gpu_memory_bytes,
        host_code=settings.host_code,
        **bounds,
    )


def _open_with_timeout(
    settings: Settings, kind: Kind, directory: Path | None, *, alone: bool
) -> Model:
    """`_open` with a timeout; a model that opens later is closed."""
    opened: Future[Model] = Future()

    def work() -> None:
        try:
            opened.set_result(_open(settings, kind, directory, alone))
        except BaseException as error:
            opened.set_exception(error)

    threading.Thread(target=work, name="model-opener", daemon=True).start()
    try:
        return opened.result(_OPEN_TIMEOUT_S)
    except TimeoutError:
        if opened.done():  # just in time, or a TimeoutError of the work itself, as of a disk
            return opened.result()
        opened.add_done_callback(_close_late)
        raise ArtifactError(
            f"the model did not open within {_OPEN_TIMEOUT_S:.0f} s; check its disk"
        ) from None


def _close_late(opened: "Future[Model]") -> None:
    if opened.exception() is None:
        opened.result().close()


def _directories(settings: Settings) -> list[tuple[Kind | None, Path | None]]:
    """The directories to open with their kinds. The kind is None if only the directory can tell;
    the directory is None for the mock."""
    if settings.mock:
        return [("rank", None), ("embed", None)]
    alone = settings.embed_dir is None
    named: list[tuple[Kind | None, Path | None]] = [
        (None if alone else "rank", settings.custom_dir),
        ("rank", settings.rank_dir),
        ("embed", settings.embed_dir),
    ]
    return [(kind, directory) for kind, directory in named if directory is not None]


def _profile_for(kind: Kind | None, settings: Settings, *, alone: bool) -> str | None:
    """RERANK_MODEL_PROFILE if it applies to this model; of two models it describes one."""
    name = settings.model_profile
    if name is None or alone or load_model_profile(name).kind == kind:
        return name
    return None


def _log_model(model: Model) -> None:
    info = model.info
    if info.mock:
        _log.warning("ENABLE_MOCK_INFERENCE: scores are made up; no model is loaded")
    _log.info(
        "ready: %s version %s (%s), engine %s on %s, precision %s, at most %d tokens, %d rows a "
        "call",
        info.model_id,
        info.version,
        info.kind,
        info.engine,
        info.device,
        info.precision,
        info.max_tokens,
        info.max_rows,
    )
