"""Replace models while the server runs, on SIGHUP; kserve/model_control.py does so on request."""

import logging
import os
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from queue import SimpleQueue

from runtime.artifact import closed_on_error
from runtime.daemon import run_in_daemon
from runtime.errors import ArtifactError, EngineError, ModelClosed, ServingError
from runtime.manifest import MANIFEST_FILE
from runtime.model import Model
from runtime.profile import Kind
from server import loading
from server.errors import NotReady, ReloadInProgress, RequestRefused
from server.memory import trim_heap
from server.served import Served
from server.service import Service
from server.settings import Settings

_log = logging.getLogger(__name__)

_STDERR = 2
# How often a replaced model is checked for running requests.
_RETIRE_POLL_S = 0.05
# A request that took the model just before it was replaced has begun after this time.
_RETIRE_DELAY_S = 2.0
# How often the watchdog checks a model that a reload warms up.
_WATCHDOG_INTERVAL_S = 0.2
# Opening a model reads files and compiles for minutes at most; a lost disk may hang for ever.
_OPEN_TIMEOUT_S = 1800.0


class NotReloaded(RequestRefused):
    """The new model cannot be served; the old one still is."""

    def __init__(self, reason: Exception) -> None:
        super().__init__(f"the model was not replaced: {reason}")


def reload_model(service: Service, kind: Kind, *, wait: bool = False) -> None:
    """Open the model of `kind` again, warm it up, and swap it in. The old model answers the
    requests that it has.

    Call it in a thread of its own: it takes as long as a start, and the memory of one more model,
    for which it first waits until earlier predecessors have ended. One reload runs at a time;
    another one waits, or raises ReloadInProgress. A proven model is only replaced by a proven one,
    which may have another name.

    Raises NotReady, KindNotServed, ModelClosed, what opening raises, and EngineError for an engine
    that hangs in its first calls. The old model is still served then.
    """
    if not service.reload_lock.acquire(blocking=wait):
        raise ReloadInProgress
    try:
        with service.metrics.counting_reload(kind):
            _await_predecessors(service)
            before = service.served(kind)
            model = _open_proven(service, kind, before)
            with closed_on_error(model):
                _swap(service, kind, before, model)
    finally:
        service.reload_lock.release()
    loading.log_model(model)
    work = (service, kind, before.model)
    try:
        threading.Thread(target=_retire, args=work, daemon=True).start()
    except RuntimeError:  # no thread can be started: wait in this one
        _retire(*work)


def _await_predecessors(service: Service) -> None:
    """Wait until all predecessors have ended, so that a reload needs the memory of only one more
    model. Raises ModelClosed."""
    while any(served.before is not None for served in list(service.models.values())):
        if service.stopping:
            raise ModelClosed
        time.sleep(_RETIRE_POLL_S)


def _open_proven(service: Service, kind: Kind, before: Served) -> Model:
    """Open and warm up the model that replaces `before`."""
    model = _open_in_time(service.settings, kind, before.directory)
    try:
        if model.info.kind != kind:
            raise ArtifactError(f"found kind {model.info.kind}, wanted {kind}")
        if before.model.info.proven and not model.info.proven:
            raise ArtifactError(
                f"found no {MANIFEST_FILE}, wanted an artifact: the served model is proven, "
                "and only a proven one may replace it"
            )
        with _watchdog(service, model):
            model.warm_up()
        if service.stopping:
            raise ModelClosed
    except BaseException:
        model.close()
        _reclaim_memory(service)
        raise
    return model


def _open_in_time(settings: Settings, kind: Kind, directory: Path | None) -> Model:
    """Open the model of `kind`; one that opens later than the timeout is closed."""
    work = partial(loading.open_served, settings, kind, directory)
    opened = run_in_daemon(work, "model-opener")
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


@contextmanager
def _watchdog(service: Service, model: Model) -> Iterator[None]:
    """Close the new `model` if it hangs in the block, or if the process stops. The served model
    goes on."""
    over = threading.Event()
    faults: list[str] = []

    def watch() -> None:
        while not over.wait(_WATCHDOG_INTERVAL_S):
            fault = model.fault(service.settings.engine_patience_s)
            if fault is not None:
                faults.append(fault)
            if fault is not None or service.stopping:
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


def _swap(service: Service, kind: Kind, before: Served, model: Model) -> None:
    """Serve `model` instead of the model of `before`. Raises ModelClosed."""
    model.scheduler.on_engine_call(partial(service.metrics.observe_call, kind))
    model.inherit_estimates(before.model)
    own = service.settings.served_name if before is service.primary else None
    name = own or model.info.model_id
    service.models[kind] = replace(before, model=model, name=name, before=before.model)
    if service.stopping:  # `close` may have missed the new model
        raise ModelClosed
    if name != before.name:
        _log.warning("%s: served as %s from now on, not as %s", kind, name, before.name)


def _retire(service: Service, kind: Kind, model: Model) -> None:
    """Close a replaced `model` when its requests are answered, or as late as one may take."""
    end = time.monotonic() + service.settings.request_timeout_s
    time.sleep(_RETIRE_DELAY_S)
    while not model.idle() and time.monotonic() < end:
        time.sleep(_RETIRE_POLL_S)
    try:
        model.close()
    finally:  # the next reload waits for it
        served = service.models[kind]
        ended = served.ended + model.scheduler.stats()
        images = served.ended_images + model.image_stats()
        service.models[kind] = replace(served, before=None, ended=ended, ended_images=images)
    _reclaim_memory(service)


def _reclaim_memory(service: Service) -> None:
    """After a model is closed: trim the heap, and reset limits that other models lowered when they
    were out of memory."""
    trim_heap()
    for served in list(service.models.values()):
        served.model.reset_limits()


@contextmanager
def reloading_on_signal(service: Service) -> Iterator[None]:
    """Reload every model on SIGHUP. In a terminal that signal still ends the process.

    Signals during a reload cause one more reload after it.
    """
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or os.isatty(_STDERR):
        yield
        return
    # Signal handlers may use a SimpleQueue, because its `put` is reentrant.
    signals: SimpleQueue[int] = SimpleQueue()
    threading.Thread(
        target=_reload_on, args=(signals, service), name="reload-signals", daemon=True
    ).start()
    before = signal.signal(signal.SIGHUP, lambda number, _: signals.put(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def _reload_on(signals: "SimpleQueue[int]", service: Service) -> None:
    while True:
        signals.get()
        while not signals.empty():  # this thread alone takes them
            signals.get()
        _reload_all(service)


def _reload_all(service: Service) -> None:
    try:
        kinds = [served.model.info.kind for served in service.all_served]
    except NotReady as error:
        _log.error("reload refused: %s", error)
        return
    for kind in kinds:  # also after a failed one
        _reload(service, kind)


def _reload(service: Service, kind: Kind) -> None:
    try:
        reload_model(service, kind, wait=True)
    except ServingError as error:
        _log.error("%s: reload refused: %s", kind, error)
    except BaseException:  # a Rust panic of the tokenizer is not an Exception
        _log.exception("%s: reload failed unexpectedly; the old model is still served", kind)
