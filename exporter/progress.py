"""Telling the user where a long job is: one line a stage on standard error, and a heartbeat."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Each wait for a heartbeat is twice the one before: a long job needs no line every few seconds.
FIRST_HEARTBEAT_S = 5.0
LONGEST_WAIT_S = 60.0


def tell(line: str) -> None:
    """One line on standard error."""
    sys.stderr.write(f"rerank-export: {line}\n")
    sys.stderr.flush()


@contextmanager
def stage(name: str, say: Callable[[str], None] = tell) -> Iterator[None]:
    """Say when the block starts, now and then that it still runs, and how long it took."""
    began = time.monotonic()
    say(f"{name} …")
    done = threading.Event()
    pulse = threading.Thread(target=_beat, args=(name, began, done, say), daemon=True)
    pulse.start()
    try:
        yield
    finally:
        done.set()
        pulse.join()
    say(f"{name}: {time.monotonic() - began:.1f} s")


def _beat(name: str, began: float, done: threading.Event, say: Callable[[str], None]) -> None:
    wait_s = FIRST_HEARTBEAT_S
    while not done.wait(wait_s):
        say(f"{name} … {time.monotonic() - began:.0f} s so far")
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)
