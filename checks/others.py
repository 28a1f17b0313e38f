"""The share of the machine that other processes use while a check measures time."""

import os
import time
from pathlib import Path

from checks.here import not_here

# Above this share a check may measure the other processes instead of the server.
MAX_OTHER_SHARE = 0.05


def need_quiet(share: float) -> None:
    """End the check, as not possible here, when others used too large a share of the machine."""
    if share > MAX_OTHER_SHARE:
        not_here(f"other processes took {share:.0%} of the machine, wanted {MAX_OTHER_SHARE:.0%}")


class Others:
    """Counts from its creation: all processor time except that of this process and of its
    descendants."""

    def __init__(self) -> None:
        self._processors = {f"cpu{number}" for number in os.sched_getaffinity(0)}
        self._began, self._others = time.monotonic(), self._ticks()

    def share(self) -> float:
        """The share of our processors that other processes used, 0 to 1, until now."""
        possible = (time.monotonic() - self._began) * len(self._processors)
        ticks = max(0, self._ticks() - self._others)
        return ticks / os.sysconf("SC_CLK_TCK") / possible

    def _ticks(self) -> int:
        return _all_ticks(self._processors) - _own_ticks()


def _all_ticks(processors: set[str]) -> int:
    """Time that was not idle, steal included, since the machine started."""
    total = 0
    for line in Path("/proc/stat").read_text().splitlines():
        name, *fields = line.split()
        if name in processors:
            user, nice, system, _, _, irq, soft, steal = map(int, fields[:8])
            total += user + nice + system + irq + soft + steal
    return total


def _own_ticks() -> int:
    """Ticks of this process and its descendants, including those that ended."""
    parents, ticks = {}, {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = path.read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        fields = text.rpartition(")")[2].split()
        pid = int(path.parent.name)
        parents[pid] = int(fields[1])
        ticks[pid] = sum(map(int, fields[11:15]))  # own and waited-for children's, user and system
    ours = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= more
    return sum(ticks[pid] for pid in ours)
