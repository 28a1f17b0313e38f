"""Reloading models while the server runs: SIGHUP, or a request to load (surfaces/kserve.py)."""

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from runtime.errors import ServingError
from server.errors import RequestRefused
from server.service import Service

_log = logging.getLogger(__name__)

_STDERR = 2


class NotReloaded(RequestRefused):
    """A new model that cannot be served; the one before still is."""

    def __init__(self, reason: Exception) -> None:
        super().__init__(f"the model was not replaced: {reason}")


@contextmanager
def reloading_on_signal(service: Service) -> Iterator[None]:
    """Reload every model on SIGHUP; in a terminal that signal goes on ending the process."""
    in_main = threading.current_thread() is threading.main_thread()
    if not in_main or os.isatty(_STDERR):
        yield
        return

    def handle(*_: object) -> None:
        threading.Thread(target=_reload_all, args=(service,), name="reloader", daemon=True).start()

    before = signal.signal(signal.SIGHUP, handle)
    try:
        yield
    finally:
        signal.signal(signal.SIGHUP, before)


def _reload_all(service: Service) -> None:
    try:
        for served in service.all_served:
            service.reload(served.model.info.kind)
    except ServingError as error:
        _log.error("reload refused: %s", error)
    except Exception:
        _log.exception("reload failed unexpectedly; the models before are still served")
