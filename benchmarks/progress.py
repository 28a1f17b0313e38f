"""Telling the user where the bench is: the export's stages, with the time of day."""

import sys
import time
from contextlib import AbstractContextManager

from exporter import progress


def print_line(line: str) -> None:
    """One line, at once."""
    sys.stderr.write(f"bench {time.strftime('%H:%M:%S')}  {line}\n")
    sys.stderr.flush()


def stage(name: str) -> AbstractContextManager[None]:
    """Say when the block starts, now and then that it still runs, and how long it took."""
    return progress.stage(name, print_line)
