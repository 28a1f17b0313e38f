"""Progress of a long job on standard error: one line for each stage, and a heartbeat."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# Each heartbeat waits twice as long as the one before: a long job needs few lines.
FIRST_HEARTBEAT_S = 5.0
LONGEST_WAIT_S = 60.0


def print_line(line: str) -> None:
    """Write one line to standard error."""
    sys.stderr.write(f"rerank-export: {line}\n")
    sys.stderr.flush()


@contextmanager
def stage(name: str, log: Callable[[str], None] = print_line) -> Iterator[None]:
    """Log when the block starts, from time to time that it still runs, and how long it took."""
    began = time.monotonic()
    log(f"{name} …")
    done = threading.Event()
    pulse = threading.Thread(target=_beat, args=(name, began, done, log), daemon=True)
    pulse.start()
    try:
        yield
    finally:
        done.set()
        pulse.join()
    log(f"{name}: {time.monotonic() - began:.1f} s")


def _beat(name: str, began: float, done: threading.Event, log: Callable[[str], None]) -> None:
    wait_s = FIRST_HEARTBEAT_S
    while not done.wait(wait_s):
        log(f"{name} … {time.monotonic() - began:.0f} s so far")
        wait_s = min(2 * wait_s, LONGEST_WAIT_S)
