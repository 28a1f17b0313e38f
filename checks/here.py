"""How a check ends when it cannot run: with the text that checks/all.py looks for."""

import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

NOT_HERE = "not possible here: "


def not_here(reason: str) -> NoReturn:
    """End the check: this machine lacks something, and no fault was found."""
    sys.stdout.flush()  # the text must be the last line, in a file too
    sys.exit(f"{NOT_HERE}{reason}")


def need_tools(packages: Mapping[str, str]) -> None:
    """End the check when a command is missing; `packages` is command → Debian package."""
    missing = {tool: package for tool, package in packages.items() if not shutil.which(tool)}
    if missing:
        wanted = " ".join(sorted(set(missing.values())))
        not_here(
            f"found no {', '.join(missing)}, wanted Debian's {wanted}: apt-get install {wanted}"
        )


def need_memory(wanted_bytes: float) -> None:
    """End the check when less memory is available than its peak needs."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    (free,) = (int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    if free < wanted_bytes:
        not_here(f"found {free / 1e9:.1f} GB of free memory, wanted {wanted_bytes / 1e9:.0f}")


def need_disk(folder: Path, wanted_bytes: float) -> None:
    """End the check when the file system of `folder`, which need not exist, has less room."""
    while not folder.exists():
        folder = folder.absolute().parent
    if (free := shutil.disk_usage(folder).free) < wanted_bytes:
        not_here(f"found {free / 1e9:.1f} GB of free disk, wanted {wanted_bytes / 1e9:.0f}")
