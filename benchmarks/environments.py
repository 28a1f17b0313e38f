"""The candidates' environments, made by the Makefile's rule when needed."""

import os
import subprocess
import sys
from contextlib import nullcontext
from functools import cache
from pathlib import Path

from benchmarks.progress import stage
from runtime.telemetry import SWITCHES

ROOT = Path(__file__).resolve().parent.parent
_KEPT = ("PATH", "HOME", "TMPDIR", "LANG")
_REQUIREMENTS = Path(__file__).with_name("requirements")


class PeerMissing(Exception):
    """Something that a candidate needs is missing; the message says what."""


@cache
def require_environment(name: str) -> Path:
    """The interpreter of .venvs/`name`. Raises PeerMissing."""
    stamp = f".venvs/{name}/.installed"
    made = (ROOT / stamp).is_file()
    with nullcontext() if made else stage(f"environment {name}"):
        log = ROOT / "build" / "benchmarks" / f"install-{name}.log"
        if run_logged(["make", stamp], log):
            raise PeerMissing(f"its environment could not be made; see {log.relative_to(ROOT)}")
    return ROOT / ".venvs" / name / "bin" / "python"


def interpreter(peer: str | None) -> Path:
    """The interpreter of a peer's environment; of this one for None. Raises PeerMissing."""
    return Path(sys.executable) if peer is None else require_environment(f"bench-{peer}")


def run_logged(command: list[str], log: Path) -> int:
    """Run a command in the repository with its output in `log`; its exit status."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        return subprocess.run(
            command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT, check=False
        ).returncode


def printed_by(peer: str, module: str, argument: str) -> bytes:
    """Standard output of `python -m module argument` in a peer's environment, as candidates run.

    Raises PeerMissing, also when the module fails.
    """
    command = [str(interpreter(peer)), "-m", module, argument]
    done = subprocess.run(
        command, cwd=ROOT, env=child_variables(), stdout=subprocess.PIPE, check=False
    )
    if done.returncode != 0:
        raise PeerMissing(f"{module} ended with status {done.returncode}, see above")
    return done.stdout


def pinned(peer: str) -> str:
    """Name and version of a peer's first pin: the peer itself."""
    lines = (_REQUIREMENTS / f"{peer}.txt").read_text().splitlines()
    return next(line for line in lines if "==" in line).replace("==", " ")


def child_variables() -> dict[str, str]:
    """The part of the caller's environment that candidates get; nothing that changes behaviour."""
    kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
    cache_folder = ROOT / "build" / "benchmarks" / "hf"
    return kept | {
        "HF_HOME": str(cache_folder),
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": str(ROOT),
        "PYTHONWARNINGS": "ignore",
        **SWITCHES,
    }
