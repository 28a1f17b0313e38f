"""Places where processes may leave files unasked, whatever HOME and TMPDIR say.

For a separate mount namespace whose user is root there: other processes are not affected.
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
    """Cover `place`; of its content, only the checkout and the interpreter stay visible."""
    interpreter = Path(sys.executable).resolve().parents[1]  # base_prefix may be a link to it
    wanted = (ROOT, Path(sys.prefix), Path(sys.base_prefix), interpreter)
    kept = {path: os.open(path, os.O_PATH) for path in wanted if path.is_relative_to(place)}
    subprocess.run(["mount", "-t", "tmpfs", "none", place], check=True)
    for path, opened in kept.items():
        path.mkdir(parents=True, exist_ok=True)
        command = ["mount", "--no-canonicalize", "--rbind", f"/proc/self/fd/{opened}", str(path)]
        subprocess.run(command, check=True, pass_fds=[opened])
        os.close(opened)


def files(top: Path) -> list[Path]:
    """The files left below `top`, except mounts."""
    found: list[Path] = []
    for folder, below, names in os.walk(top):
        below[:] = [name for name in below if not os.path.ismount(os.path.join(folder, name))]
        found += [Path(folder, name) for name in names]
    return sorted(found)
