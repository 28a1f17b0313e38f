"""`make test-anywhere`: run the suite as on other machines, in other orders and as other users.

Five runs, one after another: two workers on all cores, one core, next to two busy loops, in random
order, as a user who is not root. Their output goes to build/test-anywhere/. The exit status is 1
when one failed.
"""

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from checks.all import FAILED, ROOT, Result, run, table
from checks.here import need_tools, not_here

LOGS = ROOT / "build" / "test-anywhere"
# Debian's user without rights, and a home that does not exist.
_NOBODY = 65534
_NO_HOME = "/nonexistent"
_BUSY_LOOPS = 2

_TEST = ("make", "--no-print-directory", "-C", str(ROOT), "test")
# In another user's checkout: the suite cannot leave files there.
_AS_NOBODY = (
    *("setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"),
    *("env", f"HOME={_NO_HOME}", "PYTHONDONTWRITEBYTECODE=1"),
    *(*_TEST, "PYTEST=-p no:cacheprovider"),
)
# Makes $1, an interpreter below the closed folder $2, visible to all users, and runs the rest. Only
# for itself: it has its own mount namespace.
_OPENING = """
set -e
visible=$(mktemp -d)
mount --bind "$1" "$visible"
mount -t tmpfs -o mode=755 none "$2"
mkdir -p "$1"
mount --move "$visible" "$1"
rmdir "$visible"
shift 2
exec "$@"
"""


def main() -> int:
    """0 when every run passed."""
    # As in checks/all.py: a run ends with this process.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    need_tools(dict.fromkeys(("taskset", "setpriv", "unshare"), "util-linux"))
    if _closed_folder(ROOT):
        not_here(f"only its owner can enter {_closed_folder(ROOT)}; clone to another folder")
    if os.getuid() != 0:
        not_here("only root can run the suite as another user")
    results = [
        _run("two workers", _TEST),
        _run("one core", ("taskset", "--cpu-list", str(min(os.sched_getaffinity(0))), *_TEST)),
        _run_beside_busy_loops(),
        _run("random order", (*_TEST, "PYTEST=-p randomly")),
        _run("not root", _as_nobody()),
    ]
    print("\n".join(["", *table(results)]))
    return 1 if any(result.verdict == FAILED for result in results) else 0


def _run(name: str, command: Sequence[str]) -> Result:
    result = run(name, command, LOGS / f"{name.replace(' ', '-')}.log")
    print(f"{name}: {result.verdict}, {result.seconds:.0f} s: {result.reason}", flush=True)
    return result


def _as_nobody() -> Sequence[str]:
    closed = _closed_folder(Path(sys.base_prefix))
    if closed is None:
        return _AS_NOBODY
    opening = ("unshare", "--mount", "sh", "-c", _OPENING, "sh", sys.base_prefix, str(closed))
    return (*opening, *_AS_NOBODY)


def _closed_folder(path: Path) -> Path | None:
    """The topmost folder on the path that other users cannot enter."""
    return next(
        (one for one in (*reversed(path.parents), path) if not one.stat().st_mode & stat.S_IXOTH),
        None,
    )


def _run_beside_busy_loops() -> Result:
    busy = [sys.executable, "-c", "while True: pass"]
    loops = [subprocess.Popen(busy) for _ in range(_BUSY_LOOPS)]
    try:
        return _run("busy loops", _TEST)
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


if __name__ == "__main__":
    sys.exit(main())
