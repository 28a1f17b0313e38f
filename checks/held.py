"""Servers that are blocked, as by a disk or a driver that does not answer.

`python -c HELD_SERVE PIPE [options]` is `rerank-serve` that waits before it reads a model's
tokenizer, until the FIFO at PIPE is opened for writing. `python -c STUCK_SERVE` serves the mock,
of which no call returns.
"""

import contextlib
import os
from pathlib import Path

HELD_SERVE = """
import sys
from runtime import artifact

pipe, load = sys.argv.pop(1), artifact.load_tokenizer

def held(path):
    open(pipe, "rb").close()
    return load(path)

artifact.load_tokenizer = held
from server.cli import main

sys.exit(main())
"""

STUCK_SERVE = """
import sys, threading
from runtime.engines.mock import MockEngine
from server.cli import main

MockEngine.run = lambda *_: threading.Event().wait()
sys.exit(main())
"""


def let_go(pipe: Path) -> bool:
    """Let the server that waits at `pipe` continue; returns whether one was waiting."""
    with contextlib.suppress(OSError):  # ENXIO
        os.close(os.open(pipe, os.O_WRONLY | os.O_NONBLOCK))
        return True
    return False
