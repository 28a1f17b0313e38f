"""Telling the user where a long job is: one line a stage on standard error, and a heartbeat."""

import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

HEARTBEAT_S = 10.0


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Say how long the block took; while it runs, say so every `HEARTBEAT_S` seconds."""
    began = time.monotonic()
    done = threading.Event()
    pulse = threading.Thread(target=_beat, args=(name, began, done), daemon=True)
    pulse.start()
    try:
        yield
    finally:
        done.set()
        pulse.join()
    _say(f"{name}: {time.monotonic() - began:.1f} s")


def _beat(name: str, began: float, done: threading.Event) -> None:
    while not done.wait(HEARTBEAT_S):
        _say(f"{name} … {time.monotonic() - began:.0f} s so far")


def _say(line: str) -> None:
    sys.stderr.write(f"rerank-export: {line}\n")
    sys.stderr.flush()
