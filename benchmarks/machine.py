"""Facts about the machine, and its use by other processes during a measurement."""

import os
import platform
import time
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_TICKS = os.sysconf("SC_CLK_TCK")
# The busy fields of /proc/stat's first line: user, nice, system, irq, softirq, steal.
_WORK = (0, 1, 2, 5, 6, 7)
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


@dataclass(frozen=True)
class Usage:
    """Seconds since some start: wall clock, busy time of all processors, and busy time of a process
    group and this process."""

    clock_s: float
    all_s: float
    own_s: float

    @staticmethod
    def now(group: int) -> "Usage":
        """The use until now; `group` is the process group of a candidate."""
        ticks = (_PROC / "stat").read_text().split("\n", 1)[0].split()[1:]
        work = sum(int(ticks[field]) for field in _WORK) / _TICKS
        own = time.process_time() + sum(_seconds(stat) for stat in _group(group))
        return Usage(time.monotonic(), work, own)

    def foreign_cores(self, later: "Usage") -> float:
        """The number of cores that other processes kept busy between this moment and `later`."""
        foreign = (later.all_s - self.all_s) - (later.own_s - self.own_s)
        return max(0.0, foreign / max(later.clock_s - self.clock_s, 1e-9))


def peak_rss_bytes(group: int) -> int:
    """The sum of peak resident memory over the processes of a group."""
    total = 0
    for stat in _group(group):
        status = _read(_PROC / stat[0] / "status")
        peak = next((line for line in status.splitlines() if line.startswith("VmHWM")), None)
        total += 1024 * int(peak.split()[1]) if peak else 0
    return total


def _group(group: int) -> list[list[str]]:
    """Process id and the fields of /proc/ID/stat after the name, of each process of the group."""
    found = []
    for folder in _PROC.iterdir():
        if not folder.name.isdigit():
            continue
        # The name may contain blanks and brackets.
        fields = _read(folder / "stat").rpartition(")")[2].split()
        if len(fields) > 12 and int(fields[2]) == group:
            found.append([folder.name, *fields])
    return found


def _seconds(stat: list[str]) -> float:
    return (int(stat[12]) + int(stat[13])) / _TICKS


def _read(path: Path) -> str:
    """The file's text; empty when the process has ended."""
    try:
        return path.read_text()
    except OSError:
        return ""
