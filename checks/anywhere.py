"""`make test-anywhere`: the suite as other machines, orders and users run it.

Five runs one after the other: two workers on all cores, one core, two busy loops beside it, a
random order, a user who is not root. What one prints goes to build/test-anywhere/. The exit status
is 1 when one failed.
"""

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from checks.all import FAILED, ROOT, Result, run, table
from checks.here import need_tools, not_here

LOGS = ROOT / "build" / "test-anywhere"
# Debian's user without rights, and a home that does not exist.
_NOBODY = 65534
_NO_HOME = "/nonexistent"
_BUSY_LOOPS = 2

_TEST = ("make", "--no-print-directory", "-C", str(ROOT), "test")
# The checkout stays as it is: nothing that the suite leaves in it is hidden by rights of root.
_UNPRIVILEGED = (
    *("setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"),
    *("env", f"HOME={_NO_HOME}", "PYTHONDONTWRITEBYTECODE=1"),
    *(*_TEST, "PYTEST=-p no:cacheprovider"),
)


def main() -> int:
    """0 when every run passed."""
    need_tools({"taskset": "util-linux", "setpriv": "util-linux"})
    if os.getuid() != 0:
        not_here("only root can run the suite as another user")
    results = [
        _run("two workers", _TEST),
        _run("one core", ("taskset", "--cpu-list", "0", *_TEST)),
        _run_beside_busy_loops(),
        _run("random order", (*_TEST, "PYTEST=-p randomly")),
        _run("not root", _UNPRIVILEGED),
    ]
    print("\n".join(["", *table(results)]))
    return 1 if any(result.verdict == FAILED for result in results) else 0


def _run(name: str, command: Sequence[str]) -> Result:
    result = run(name, command, LOGS / f"{name.replace(' ', '-')}.log")
    print(f"{name}: {result.verdict}, {result.seconds:.0f} s: {result.said}", flush=True)
    return result


def _run_beside_busy_loops() -> Result:
    with _busy_loops():
        return _run("busy loops", _TEST)


@contextmanager
def _busy_loops() -> Iterator[None]:
    loops = [
        subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(_BUSY_LOOPS)
    ]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


if __name__ == "__main__":
    sys.exit(main())
