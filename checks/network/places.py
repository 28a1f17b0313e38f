"""Where processes leave files that nobody asked for, whatever HOME and TMPDIR say.

For a mount namespace of its own, whose user is root there: others keep what they see.
"""

import os
import pwd
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def places() -> list[Path]:
    """Folders for temporary files, and the home that the user database gives root."""
    wanted = (Path("/tmp"), Path("/var/tmp"), Path("/dev/shm"), Path(pwd.getpwuid(0).pw_dir))
    found = {path.resolve() for path in wanted if path.is_dir()}
    return sorted(path for path in found if not path.is_relative_to(ROOT))


def empty(place: Path) -> None:
    """Cover `place`; of what lay there, only the checkout and the interpreter are still seen."""
    interpreter = Path(sys.executable).resolve().parents[1]  # base_prefix may be a link to it
    wanted = (ROOT, Path(sys.prefix), Path(sys.base_prefix), interpreter)
    kept = {path: os.open(path, os.O_PATH) for path in wanted if path.is_relative_to(place)}
    subprocess.run(["mount", "-t", "tmpfs", "none", place], check=True)
    for path, opened in kept.items():
        path.mkdir(parents=True, exist_ok=True)
        shown = ["mount", "--no-canonicalize", "--rbind", f"/proc/self/fd/{opened}", str(path)]
        subprocess.run(shown, check=True, pass_fds=[opened])
        os.close(opened)


def files(top: Path) -> list[Path]:
    """What was left below `top`, but for what is mounted there."""
    found: list[Path] = []
    for folder, below, names in os.walk(top):
        below[:] = [name for name in below if not os.path.ismount(os.path.join(folder, name))]
        found += [Path(folder, name) for name in names]
    return sorted(found)
