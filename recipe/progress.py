"""Telling the user how far a stage is: lines on standard error, never more than one in 5 s."""

import sys
import time
from collections.abc import Callable

Say = Callable[[str], None]

_WAIT_S = 5.0


def tell(line: str) -> None:
    """One line on standard error."""
    sys.stderr.write(f"rerank: {line}\n")
    sys.stderr.flush()


def under(name: str, say: Say = tell) -> Say:
    """`say` for one stage, whose name stands before each line."""
    return lambda line: say(f"{name}: {line}")


class Progress:
    """Counts finished pieces of `total`, and says so now and then."""

    def __init__(self, what: str, total: int, say: Say, done: int = 0) -> None:
        self._what, self._total, self._say = what, total, say
        self._done = self._found = done
        self._began = self._last = time.monotonic()
        if done:
            say(f"{what}: {done} of {total} were done before")

    def step(self, count: int = 1) -> None:
        """`count` more pieces are finished."""
        self._done += count
        now = time.monotonic()
        if now - self._last < _WAIT_S and self._done < self._total:
            return
        self._last = now
        rate = (self._done - self._found) / max(now - self._began, 1e-9)
        left_s = (self._total - self._done) / rate if rate else 0.0
        rest = f", about {left_s:.0f} s left" if self._done < self._total else ""
        self._say(f"{self._what}: {self._done} of {self._total}{rest}")
