"""Telling the user where the bench is: lines on standard error, and a heartbeat in long stages."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

_BEAT_S = 30.0


def say(line: str) -> None:
    """One line, at once."""
    sys.stderr.write(f"bench {time.strftime('%H:%M:%S')}  {line}\n")
    sys.stderr.flush()


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Say when the block starts, now and then that it still runs, and how long it took."""
    began = time.monotonic()
    say(f"{name} …")
    done = threading.Event()
    pulse = threading.Thread(target=_beat, args=(name, began, done), daemon=True)
    pulse.start()
    try:
        yield
    finally:
        done.set()
        pulse.join()
    say(f"{name}: {time.monotonic() - began:.1f} s")


def _beat(name: str, began: float, done: threading.Event) -> None:
    while not done.wait(_BEAT_S):
        say(f"{name} … {time.monotonic() - began:.0f} s so far")
