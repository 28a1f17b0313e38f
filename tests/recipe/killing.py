"""A `rerank` that is killed or interrupted at a point in its work, independent of time."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
# The process kills itself: at exactly this point, however fast the machine is.
_DYING = """
import importlib, os, signal, sys
place, times, first, *arguments = sys.argv[1:]
exec(first)
module, _, path = place.partition(":")
*outer, name = path.split(".")
holder = importlib.import_module(module)
for one in outer:
    holder = getattr(holder, one)
real, left = getattr(holder, name), int(times)

def dying(*values, **named):
    global left
    result = real(*values, **named)
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    return result

setattr(holder, name, dying)
from recipe.cli import main
sys.exit(main(arguments))
"""


def environment() -> dict[str, str]:
    """For a process that imports this project."""
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def killed_after(place: str, times: int, *arguments: str, folder: Path, first: str = "") -> None:
    """`rerank ARGUMENTS`, killed when `place` ("module:Class.function") has returned that often.

    The process starts with the Python code `first`.
    """
    done = subprocess.run(
        [sys.executable, "-c", _DYING, place, str(times), first, *arguments],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr


def interrupt_after(patch: pytest.MonkeyPatch, holder: Any, name: str, times: int = 1) -> None:
    """Interrupts this process, as Ctrl-C does, when `holder.name` has returned that often."""
    real, left = getattr(holder, name), times

    def interrupting(*values: Any, **named: Any) -> Any:
        nonlocal left
        result = real(*values, **named)
        left -= 1
        if not left:
            raise KeyboardInterrupt
        return result

    patch.setattr(holder, name, interrupting)
