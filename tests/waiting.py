"""Waiting for what must come."""

import threading
import time
from collections.abc import Callable

# Only a hang reaches it: nothing may depend on how fast a machine is.
PATIENCE_S = 300.0
_PAUSE_S = 0.02


def wait_until(true: Callable[[], bool], told: Callable[[], str] = str) -> None:
    """Until `true()`; the failure says what is `told`."""
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end, told()
        time.sleep(_PAUSE_S)


def retiring() -> bool:
    """Whether models that were replaced in this process are still open."""
    return any("_retire" in thread.name for thread in threading.enumerate())
