"""How many cores this process may use."""

import math
import os
from pathlib import Path

_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def usable_cores(quota_file: Path = _QUOTA) -> int:
    """The cores of the affinity mask, bounded by the container's CPU quota.

    `quota_file` holds "QUOTA PERIOD" in microseconds, or "max PERIOD" (Linux, cgroup version 2).
    More threads than the quota allows would be throttled in the middle of their work.
    """
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    cores = cores or 1
    try:
        quota, period = quota_file.read_text().split()
        return cores if quota == "max" else max(1, min(cores, math.ceil(int(quota) / int(period))))
    except (OSError, ValueError, ZeroDivisionError):
        return cores
