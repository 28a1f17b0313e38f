"""Processes that outlive their starter: identified beyond their pid, stopped through a pidfd.

Pids are reused, soon where a container restarts. Linux's proc(5) says when a process started, in
ticks since the boot that boot_id names. The command line does not identify a process: it is empty
at first, others may have the same one, and exec changes it.
"""

import os
import select
import signal
from pathlib import Path

import msgspec

from recipe.durable import read_json, write_json

_PROC = Path("/proc")
_BOOT_ID = _PROC / "sys/kernel/random/boot_id"
# Fields 3 and 22 of stat; the index counts from field 3, after the name, which may hold any byte.
_STATE, _START_TICKS = 0, 22 - 3
# Zombies and dead processes.
_ENDED = "ZXx"
_STOP_S = 30.0


class Started(msgspec.Struct, frozen=True, kw_only=True):
    """Identity of a running or ended process; unique across containers and boots."""

    pid: int
    boot: str
    start_ticks: int

    def runs(self) -> bool:
        """Whether it is still running."""
        return find_process(self.pid) == self

    def end(self, within_s: float = _STOP_S) -> None:
        """Stop it with SIGTERM, after `within_s` with SIGKILL, and wait until it has ended. A
        process that reuses the pid is never touched."""
        try:
            handle = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            # Check the identity now: while the pidfd is open, the pid is not reused.
            if self.runs():
                _end(handle, within_s)
        finally:
            os.close(handle)


def find_process(pid: int) -> Started | None:
    """The running process with this pid; None when there is none, it has ended, or the mount option
    hidepid hides it."""
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
    """Write the identity of this process for `read_started`; nothing when it has ended."""
    process = find_process(pid)
    if process is not None:
        write_json(file, process)


def read_started(file: Path) -> Started | None:
    """The process in `file`, if it is still running."""
    process = read_json(file, Started)
    return process if process is not None and process.runs() else None


def _end(handle: int, within_s: float) -> None:
    # A pidfd is readable once all threads have ended, even if no parent reaps the process:
    # pid 1 of a container may not.
    signal.pidfd_send_signal(handle, signal.SIGTERM)
    ended, _, _ = select.select([handle], [], [], within_s)
    if not ended:
        signal.pidfd_send_signal(handle, signal.SIGKILL)
        select.select([handle], [], [])
