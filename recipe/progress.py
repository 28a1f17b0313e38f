"""Progress of a stage: lines on standard error, at most one in 5 s."""

import sys
import time
from collections.abc import Callable

Log = Callable[[str], None]

_WAIT_S = 5.0


def print_line(line: str) -> None:
    """Write one line to standard error."""
    sys.stderr.write(f"rerank: {line}\n")
    sys.stderr.flush()


def stage_log(name: str, log: Log = print_line) -> Log:
    """`log` with the stage's name before each line."""
    return lambda line: log(f"{name}: {line}")


class Progress:
    """Counts finished items of `total`, and logs the count now and then."""

    def __init__(self, what: str, total: int, log: Log, done: int = 0) -> None:
        self._what, self._total, self._log = what, total, log
        self._done = self._found = done
        self._began = self._last = time.monotonic()
        if done:
            log(f"{what}: {done} of {total} were already done")

    def step(self, count: int = 1) -> None:
        """Count `count` more finished items."""
        self._done += count
        now = time.monotonic()
        if now - self._last < _WAIT_S and self._done < self._total:
            return
        self._last = now
        rate = (self._done - self._found) / max(now - self._began, 1e-9)
        left_s = (self._total - self._done) / rate if rate else 0.0
        rest = f", about {left_s:.0f} s left" if self._done < self._total else ""
        self._log(f"{self._what}: {self._done} of {self._total}{rest}")
