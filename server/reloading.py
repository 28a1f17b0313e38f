"""Reloading models while the server runs: SIGHUP, or a request to load (surfaces/kserve.py)."""

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
    """A new model that cannot be served; the one before still is."""

    def __init__(self, reason: Exception) -> None:
        super().__init__(f"the model was not replaced: {reason}")


@contextmanager
def reloading_on_signal(service: Service) -> Iterator[None]:
    """Reload every model on SIGHUP; in a terminal that signal goes on ending the process.

    Signals that come while a reload runs are one more reload, behind it.
    """
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or os.isatty(_STDERR):
        yield
        return
    # What a signal's handler may use: it never waits for a lock.
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
    for kind in kinds:  # whatever becomes of the ones before
        _reload(service, kind)


def _reload(service: Service, kind: Kind) -> None:
    try:
        service.reload(kind, wait=True)
    except ServingError as error:
        _log.error("%s: reload refused: %s", kind, error)
    except BaseException:  # a panic in the tokenizer's Rust is no Exception
        _log.exception("%s: reload failed unexpectedly; the model before is still served", kind)
