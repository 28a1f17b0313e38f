"""One virtual environment for each client, under .venvs/, remade when its pins change."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENTS = ROOT / ".venvs"

_PROGRESS_S = 10
_LOG_LINES = 15
_LINE_CHARACTERS = 400
_SHOW_VERSION = "import sys; print('%d.%d' % sys.version_info[:2])"


class EnvironmentFailed(Exception):
    """The environment could not be made; the message contains the end of pip's output."""


def requirements(client: str) -> Path:
    """The file with the client's pins."""
    return Path(__file__).parent / "requirements" / f"{client}.txt"


def pinned_version(client: str) -> str:
    """Name and version of the first pin: the client itself."""
    if own := re.search(r"^-e \./(\w+)$", requirements(client).read_text(), re.M):
        return f"{own[1]} (this checkout)"
    pins = re.search(r"^([\w-]+)(?:\[.*\])?==(\S+)$", requirements(client).read_text(), re.M)
    if pins is None:
        raise EnvironmentFailed(f"{requirements(client)}: found no pin, wanted name==version")
    return f"{pins[1]} {pins[2]}"


def end_of(log: Path) -> str:
    """The last lines of the log, each cut to a few lines of the screen."""
    lines = log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
    return "\n".join(line[:_LINE_CHARACTERS] for line in lines)


def find_python(wanted: tuple[str, ...]) -> str | None:
    """An interpreter of one of the `wanted` versions ("3.12"), the running one first."""
    return next((p for p in _candidates(wanted) if _version(p) in wanted), None)


def make_environment(client: str, python: str) -> Path:
    """The environment's interpreter; the environment is remade when pins or Python changed.

    Raises EnvironmentFailed.
    """
    directory = ENVIRONMENTS / client
    pins = requirements(client)
    content = f"{_version(python)}\n".encode() + pins.read_bytes()
    stamp, wanted = directory / "pins.sha256", hashlib.sha256(content).hexdigest()
    interpreter = directory / "bin" / "python"
    if stamp.is_file() and stamp.read_text() == wanted and _version(str(interpreter)) is not None:
        return interpreter
    ENVIRONMENTS.mkdir(exist_ok=True)
    _run(client, [python, "-m", "venv", "--clear", str(directory)])
    pip = [str(interpreter), "-m", "pip", "--disable-pip-version-check", "--no-input"]
    _run(client, [*pip, "install", "--progress-bar", "off", "--requirement", str(pins)])
    stamp.write_text(wanted)
    return interpreter


def _candidates(wanted: tuple[str, ...]) -> Iterator[str]:
    yield sys.executable
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"))
    for version in wanted:
        if named := os.environ.get(f"PYTHON{version.replace('.', '')}"):
            yield named
        if found := shutil.which(f"python{version}"):
            yield found
        yield from map(str, sorted(pyenv.glob(f"versions/{version}.*/bin/python")))


def _version(python: str) -> str | None:
    """As "3.12"; None for an interpreter that does not run, such as an empty pyenv shim."""
    try:
        done = subprocess.run([python, "-c", _SHOW_VERSION], capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _run(client: str, command: list[str]) -> None:
    """Run `command` at low priority, reporting every few seconds that it is running."""
    log = ENVIRONMENTS / f"{client}.install"
    started = time.monotonic()
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["nice", *command], cwd=ROOT, stdout=output, stderr=subprocess.STDOUT
        )
        while True:
            try:
                status = process.wait(_PROGRESS_S)
                break
            except subprocess.TimeoutExpired:
                spent_s = time.monotonic() - started
                print(f"{client}: making its environment, {spent_s:.0f} s", flush=True)
    if status != 0:
        raise EnvironmentFailed(f"{' '.join(command)} ended with {status}:\n{end_of(log)}")
