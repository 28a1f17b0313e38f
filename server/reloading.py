"""Reload models while the server runs, on SIGHUP; kserve/model_control.py reloads on request."""

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import Empty, SimpleQueue

from runtime.errors import ServingError
from runtime.profile import Kind
from server.errors import NotReady, RequestRefused
from server.service import Service

_log = logging.getLogger(__name__)

_STDERR = 2


class NotReloaded(RequestRefused):
    """The new model cannot be served; the old one still is."""

    def __init__(self, reason: Exception) -> None:
        super().__init__(f"the model was not replaced: {reason}")


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
        with suppress(Empty):
            while True:
                signals.get_nowait()
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
        service.reload(kind, wait=True)
    except ServingError as error:
        _log.error("%s: reload refused: %s", kind, error)
    except BaseException:  # a Rust panic of the tokenizer is not an Exception
        _log.exception("%s: reload failed unexpectedly; the old model is still served", kind)
