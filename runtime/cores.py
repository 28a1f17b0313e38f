"""Which cores this process may use, and which of them share a NUMA node."""

import math
import os
from collections.abc import Sequence
from pathlib import Path

# cgroup version 2; sysfs-devices-system-cpu and numa(7).
_QUOTA = Path("/sys/fs/cgroup/cpu.max")
_DEVICES = Path("/sys/devices/system")

Cores = tuple[int, ...]


def usable_cores(quota_file: Path = _QUOTA) -> int:
    """The logical cores of the affinity mask, bounded by the container's CPU quota.

    `quota_file` holds "QUOTA PERIOD" in microseconds, or "max PERIOD" (Linux, cgroup version 2).
    More threads than the quota allows would be throttled in the middle of their work.
    """
    cores = len(_allowed())
    try:
        quota, period = quota_file.read_text().split()
        return cores if quota == "max" else max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError, ZeroDivisionError):
        return cores


def usable_nodes(devices: Path = _DEVICES, quota_file: Path = _QUOTA) -> tuple[Cores, ...]:
    """The cores for arithmetic by NUMA node, the node with most cores first.

    Of the logical cores that share a physical one only the first counts, because they share its
    arithmetic units. Where a quota allows fewer, so many cores count as one node: which ones they
    are is the kernel's choice. The same where the system does not describe its nodes.
    """
    physical = _first_of_each({*_allowed()}, devices / "cpu")
    if (quota := usable_cores(quota_file)) < len(physical):
        return (physical[:quota],)
    nodes = []
    for file in sorted(devices.glob("node/node[0-9]*/cpulist")):
        on_node = set(_listed(file))
        nodes.append(tuple(core for core in physical if core in on_node))
    if sum(map(len, nodes)) != len(physical):
        return (physical,)
    return tuple(sorted(filter(None, nodes), key=len, reverse=True))


def _allowed() -> Sequence[int]:
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return range(os.cpu_count() or 1)


def _first_of_each(allowed: set[int], devices: Path) -> Cores:
    """The first allowed logical core of each physical one; all where the system does not say."""
    found: list[int] = []
    left = set(allowed)
    for core in sorted(allowed):
        if core in left:
            found.append(core)
            left -= {core, *_listed(devices / f"cpu{core}" / "topology" / "thread_siblings_list")}
    return tuple(found)


def _listed(file: Path) -> list[int]:
    """The numbers of a list such as 0-3,8; none if the file cannot be read."""
    try:
        parts = [part.partition("-") for part in file.read_text().strip().split(",")]
        return [n for low, _, high in parts for n in range(int(low), int(high or low) + 1)]
    except (OSError, ValueError):
        return []
