"""Facts about the machine and its processes."""

import os
import platform
from contextlib import suppress
from pathlib import Path

_PROC = Path("/proc")
_FEATURES = ("avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16", "amx_int8")


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def describe() -> dict[str, str]:
    """Processor, its instruction sets, memory, kernel and Python."""
    lines = (_PROC / "cpuinfo").read_text().splitlines()
    facts = dict(line.split(":", 1) for line in lines if ":" in line)
    found = {name.strip(): value.strip() for name, value in facts.items()}
    flags = found.get("flags", "").split()
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return {
        "processor": found.get("model name", platform.machine()),
        "cores": str(cores()),
        "instructions": ", ".join(f for f in _FEATURES if f in flags),
        "memory": f"{pages / 1e9:.0f} GB",
        "kernel": platform.release(),
        "python": platform.python_version(),
    }


def peak_rss_bytes(group: int) -> int:
    """The sum of peak resident memory over the processes of a group."""
    total = 0
    for folder in _PROC.glob("[0-9]*"):
        with suppress(OSError):  # the process has ended
            if os.getpgid(int(folder.name)) == group:
                lines = (folder / "status").read_text().splitlines()
                total += sum(1024 * int(x.split()[1]) for x in lines if x.startswith("VmHWM"))
    return total
