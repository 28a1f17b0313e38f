"""What the routes share: settings, metrics, and the models from loading to shutdown."""

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

# Bodies of the largest size for which there is room at the same time, and at least so many bytes:
# a small largest size is no reason to let fewer requests wait.
_BODIES_AT_ONCE = 8
_ROOM_FOR_BODIES = 256 << 20
# How often a model that was replaced is asked whether its last request is answered.
_RETIRE_POLL_S = 0.05
# A request that took the model just before it was replaced has begun by then.
_RETIRE_DELAY_S = 2.0
# How often a model that warms up anew is looked at, and engines are; one that is away is asked.
_RELOAD_WATCHDOG_INTERVAL_S = 0.2
_WATCHDOG_INTERVAL_S = 1.0
# Opening a model reads files and compiles for minutes at most; with a disk that is gone, for ever.
_OPEN_TIMEOUT_S = 1800.0

_KIND_NAMES: Mapping[Kind, tuple[str, str]] = {
    "rank": ("reranker", "--rank"),
    "embed": ("embedder", "--embed"),
}


class Predecessor:
    """A model that was replaced, as far as counters go: these never go back. Without a `model`, all
    those that have ended, which computed `final` together."""

    def __init__(self, model: Model | None, final: SchedulerStats | None = None) -> None:
        self._model = model
        self._final = final or SchedulerStats()

    @property
    def ended(self) -> bool:
        """Whether it has answered its last request."""
        return self._model is None

    def stats(self) -> SchedulerStats:
        """What it has computed, while it answers its last requests and afterwards."""
        model = self._model
        return self._final if model is None else model.stats()

    def close(self) -> None:
        """Answer whoever still waits for it."""
        model = self._model
        if model is not None:
            model.close()

    def retire(self, within_s: float) -> None:
        """Close the model when the requests that it has are answered, or after `within_s`."""
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
            self._final = model.stats()
            self._model = None


def _merge_ended(before: tuple[Predecessor, ...]) -> tuple[Predecessor, ...]:
    """The same, those that have ended as one."""
    ended = [one for one in before if one.ended]
    together = sum((one.stats() for one in ended), SchedulerStats())
    return (Predecessor(None, together), *(one for one in before if one not in ended))


@dataclass(frozen=True)
class HealthState:
    """What one look at the service found: whether every model answered a real inference, whether
    the process can still be of use, whether an engine that is another process cannot be reached,
    and whether the process was told to end."""

    loaded: bool
    live: bool
    engine_unreachable: bool
    stopping: bool

    @property
    def ready(self) -> bool:
        """Whether requests should be sent here."""
        return self.loaded and self.live and not self.engine_unreachable and not self.stopping


@dataclass(frozen=True)
class Served:
    """A loaded model: the name that /v1/models lists, those that requests may use, where it came
    from (None: made up), what it was asked, and the models that it replaced."""

    model: Model
    name: str
    accepted_names: AcceptedNames
    directory: Path | None
    tally: Tally = field(default_factory=Tally)
    before: tuple[Predecessor, ...] = ()

    def stats(self) -> SchedulerStats:
        """Counters of rows and engine calls since the start, of the models before it too."""
        return sum((one.stats() for one in self.before), self.model.stats())


class Service:
    """One per process. `stopping` is set when the process was told to end: not ready any more,
    though requests are still answered."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.stopping = False
        self._served: dict[Kind, Served] = {}
        self._all_loaded = False
        # The model that shows for the first time that it can compute; it may hang at that.
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
        """One look at everything that health tells of."""
        return HealthState(self.loaded, self.live, self.engine_unreachable, self.stopping)

    @property
    def ready(self) -> bool:
        """Whether requests should be sent here."""
        return self.health_state().ready

    @property
    def engine_unreachable(self) -> bool:
        """Whether an engine that is another process cannot be reached; it is asked again until
        it can be."""
        return any(served.model.unreachable for served in list(self._served.values()))

    @property
    def live(self) -> bool:
        """Whether the process can still be of use: no engine hangs, no thread has ended, no device
        is lost."""
        return self.stopping or self._find_fault() is None

    def _find_fault(self) -> tuple[Kind, str] | None:
        """The model that does not compute any more, and what ails it."""
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
        """The model that health and metadata speak of."""
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
        """Log what was asked for and load the models in a thread of its own; another one watches
        their engines.

        The threads are daemons: a process that is told to end does not wait for a model to load.
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
        """Answer whoever still waits and give the models back."""
        self.stopping = True
        for served in list(self._served.values()):
            for one in served.before:
                one.close()
            served.model.close()

    def reload(self, kind: Kind, *, wait: bool = False) -> None:
        """Open the model of `kind` anew, let it prove itself, and put it in the place of the one
        that is served, which answers the requests that it has.

        To be called from a thread of its own: it takes as long as a start, and the memory of one
        more model; for that it waits until the models before have ended. One reload runs at a time;
        another one waits for its turn, or raises ReloadInProgress. A proven model is replaced by proven
        ones only, which may have another name.
        Raises NotReady, KindNotServed, ModelClosed, or what opening raises, EngineError for an engine
        that hangs at its first calls; then the model before is still served.
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
        except RuntimeError:  # no more threads are to be had: this one waits instead
            self._retire(replaced)

    def _swap(self, kind: Kind, before: Served, model: Model) -> Predecessor:
        """Put `model` in the place of the one of `before`. Raises ModelClosed."""
        model.on_engine_call(partial(self.metrics.observe_call, kind))
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
        if self.stopping:  # `close` may have come before the new model was there
            raise ModelClosed
        if name != before.name:
            _log.warning("%s: served as %s from now on, not as %s", kind, name, before.name)
        return replaced

    def _await_predecessors(self) -> None:
        """Wait until the models that were replaced have ended: a reload has the memory of one more
        model, not of one more each time. Raises ModelClosed."""
        while any(not one.ended for served in self._served.values() for one in served.before):
            if self.stopping:
                raise ModelClosed
            time.sleep(_RETIRE_POLL_S)

    def _open_proven(self, kind: Kind, before: Served) -> Model:
        """The model that is to replace `before`, open and warm."""
        model = _open_with_timeout(self.settings, kind, before.directory, alone=self._is_alone)
        try:
            if model.info.kind != kind:
                raise ArtifactError(f"found kind {model.info.kind}, wanted {kind}")
            if before.model.info.proven and not model.info.proven:
                raise ArtifactError(
                    f"found no {MANIFEST_FILE}, wanted an artifact: the model that is served was "
                    "proven, and one that was not does not take its place"
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
        """Close `model` when it hangs in the block, or the process is told to end: the model that
        is served goes on."""
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
        # A call that hung may have ended while the model was being closed.
        if faults:
            raise EngineError(f"the new model does not compute: {faults[0]}")

    def _retire(self, replaced: Predecessor) -> None:
        replaced.retire(self.settings.request_timeout_s)
        self._reclaim_memory()

    def _reclaim_memory(self) -> None:
        """A model is closed: those that found no memory beside it may have all that they want."""
        trim_heap()
        for served in list(self._served.values()):
            served.model.reset_limits()

    def _run_watchdog(self) -> None:
        """The thread that tells of an engine that is lost, and finds out that one that was away is
        back: nobody sends requests meanwhile."""
        last_reasons: dict[Kind, str] = {}
        lost = False
        while not self.stopping:
            time.sleep(_WATCHDOG_INTERVAL_S)
            faulty = self._find_fault()
            # Looked at last: threads of models that are closed have ended, too.
            if faulty is not None and not lost and not self.stopping:
                _log.critical("%s: %s; the process must be restarted", *faulty)
            lost = faulty is not None
            for kind, served in list(self._served.items()):
                if served.model.unreachable:
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
        except BaseException as error:  # a panic in the tokenizer's Rust is no Exception
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
        # The reranker comes first, and a name that was set is the first model's.
        own = self.settings.served_name if not self._served else None
        name = own or model.info.model_id
        kind = model.info.kind
        model.on_engine_call(partial(self.metrics.observe_call, kind))
        self._served[kind] = Served(model, name, AcceptedNames(name, kind), directory)


def _reconnect(model: Model, last_reason: str) -> str:
    """Ask an engine that is away; the reason why it is not back, which is logged unless it was
    `told` before."""
    try:
        model.reconnect()
    except Exception as error:  # whatever it is, the engine is asked again
        known = isinstance(error, ServingError)
        reason = str(error) if known else f"{type(error).__name__}: {error}"
        level = logging.DEBUG if reason == last_reason else logging.WARNING
        _log.log(level, "%s: not ready, asked again every second: %s", model.info.kind, reason)
        return reason
    _log.info("%s: the engine is back", model.info.kind)
    return ""


def abort_start(reason: str) -> NoReturn:
    """Log `reason` and end the process with status 1, from any thread.

    Nothing was served yet, so nothing is lost; a process that stays alive without ever becoming
    ready would only delay whoever started it.
    """
    _log.critical("%s", reason)
    logging.shutdown()
    os._exit(1)


def _open_all(settings: Settings) -> Iterator[tuple[Model, Path | None]]:
    """Every model that the settings name and its directory, the reranker first."""
    directories = _directories(settings)
    for kind, directory in directories:
        yield _open(settings, kind, directory, alone=len(directories) == 1), directory


def _open(settings: Settings, kind: Kind | None, directory: Path | None, alone: bool) -> Model:
    """The model of `kind` in `directory`; without one, the mock."""
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
    """`_open` that is given up after a while; a model that comes later is closed."""
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
        if opened.done():  # just in time, or with a TimeoutError of its own, as of a disk
            return opened.result()
        opened.add_done_callback(_close_late)
        raise ArtifactError(
            f"the model did not open within {_OPEN_TIMEOUT_S:.0f} s; look after its disk"
        ) from None


def _close_late(opened: "Future[Model]") -> None:
    if opened.exception() is None:
        opened.result().close()


def _directories(settings: Settings) -> list[tuple[Kind | None, Path | None]]:
    """What to open, as which kind; None where only the directory itself can tell. The mock has no
    directories."""
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
    """RERANK_MODEL_PROFILE where it is meant: of two models, it can describe one."""
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
