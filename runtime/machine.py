"""Facts about this machine on which speed and rounding depend."""

import platform
from pathlib import Path

from runtime.cores import usable_cores


def describe() -> dict[str, str]:
    """Architecture, processor, and how many cores this process may use."""
    return {
        "machine": platform.machine(),
        "cpu": _cpu_name(),
        "cores": str(usable_cores()),
    }


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
