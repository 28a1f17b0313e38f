"""How long a test waits for what must come."""

import time
from collections.abc import Callable

# Only a hang reaches it.
PATIENCE_S = 300.0


def wait_until(true: Callable[[], bool]) -> None:
    """Look again and again; fails when it never becomes true."""
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end
        time.sleep(0.001)
