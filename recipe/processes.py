"""Processes that outlive whoever started them: known by more than a number, ended by a handle.

A number is given again, soon where a container restarts. Linux's proc(5) tells when a process
started, in ticks since the boot that boot_id names. Its command line tells nothing: there is none
at first, others have the same, and it changes where a script executes a program in its own place.
"""

import os
import select
import signal
from pathlib import Path

import msgspec

from recipe.durable import write_json

_PROC = Path("/proc")
_BOOT_ID = _PROC / "sys/kernel/random/boot_id"
# Fields 3 and 22 of stat; those behind the name, which may hold anything, begin with the third.
_STATE, _START_TICKS = 0, 22 - 3
# Zombies, and what is about to be none.
_ENDED = "ZXx"
_STOP_S = 30.0


class Started(msgspec.Struct, frozen=True, kw_only=True):
    """A process that runs, or ran: no other one is equal to it, here or in another container."""

    pid: int
    boot: str
    start_ticks: int

    def runs(self) -> bool:
        """Whether it still does."""
        return look(self.pid) == self

    def end(self, within_s: float = _STOP_S) -> None:
        """Stop it by SIGTERM, after `within_s` by SIGKILL, and wait until it is gone; no other
        process that has its number by now is touched."""
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            # Only now: nobody else is given the number while there is a handle.
            if self.runs():
                _end(handle, within_s)
        finally:
            os.close(handle)


def look(pid: int) -> Started | None:
    """The process that has this number now; None where there is none, one that has ended, or one
    of another user that the mount option hidepid hides."""
    try:
        stat = (_PROC / str(pid) / "stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None
    fields = stat.rpartition(")")[2].split()
    if fields[_STATE] in _ENDED:
        return None
    return Started(
        pid=pid,
        boot=_BOOT_ID.read_text().strip(),
        start_ticks=int(fields[_START_TICKS]),
    )


def write_started(file: Path, pid: int) -> None:
    """Leave for `read_started` which process has this number; nothing where it has ended."""
    process = look(pid)
    if process is not None:
        write_json(file, process)


def read_started(file: Path) -> Started | None:
    """The process that `file` tells of, if it still runs."""
    try:
        process = msgspec.json.decode(file.read_bytes(), type=Started)
    except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return process if process.runs() else None


def _end(handle: int, within_s: float) -> None:
    # Readable as soon as all threads have ended, whether or not a parent asks how: the first
    # process of a container may not.
    signal.pidfd_send_signal(handle, signal.SIGTERM)
    ended, _, _ = select.select([handle], [], [], within_s)
    if not ended:
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        select.select([handle], [], [])
