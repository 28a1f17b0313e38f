"""Signals before the server listens to them: none is lost, at whichever point the start is."""

import signal
from pathlib import Path

import pytest

from tests.server.conftest import Server, Start
from tests.server.test_lifecycle import UVICORN

MOCK = {"ENABLE_MOCK_INFERENCE": "1"}
# The process sends a signal to itself at an audit event (docs.python.org/3/library/audit_events).
_SIGNALLING = """
import os, signal, sys
event, told, number = os.environ["SIGNAL_AT"].split("|")
sent = []

def look(happens, values):
    if happens == event and told in str(values) and not sent:
        sent.append(number)
        os.kill(os.getpid(), int(number))

sys.addaudithook(look)
"""


def signalled(
    start: Start,
    folder: Path,
    event: str,
    moment: str,
    number: signal.Signals,
    *arguments: str,
    **environment: str,
) -> Server:
    """A server that gets the signal at its first `event` whose values show `told`."""
    (folder / "sitecustomize.py").write_text(_SIGNALLING)
    given = {"PYTHONPATH": str(folder), "SIGNAL_AT": f"{event}|{moment}|{int(number)}"}
    return start({**(environment or MOCK), **given}, *arguments)


@pytest.mark.parametrize(
    ("event", "moment", "number"),
    [
        ("import", "'server.libraries'", signal.SIGTERM),
        ("import", "'numpy'", signal.SIGINT),
        ("import", "'uvicorn'", signal.SIGTERM),
        ("socket.bind", "('127.0.0.1'", signal.SIGTERM),  # behind the first line of the log
        ("import", "'uvloop'", signal.SIGINT),
        ("ctypes.dlsym", "mallopt", signal.SIGTERM),  # uvicorn listens, we do not yet
    ],
)
def test_a_start_that_gets_a_signal_ends(
    start: Start, tmp_path: Path, event: str, moment: str, number: signal.Signals
) -> None:
    server = signalled(start, tmp_path, event, moment, number)
    assert server.ends() == 0
    assert "Traceback" not in server.log


def test_so_does_one_that_opens_its_model(
    start: Start, tmp_path: Path, bare_directory: Path
) -> None:
    model = {"NIM_CUSTOM_MODEL": str(bare_directory)}
    server = signalled(start, tmp_path, "import", "'onnxruntime.capi", signal.SIGTERM, **model)
    assert server.ends() == 0
    assert "Traceback" not in server.log


def test_so_does_plain_uvicorn(start: Start, tmp_path: Path) -> None:
    server = signalled(start, tmp_path, "import", "'server.auth'", signal.SIGTERM, *UVICORN)
    assert server.ends() == -signal.SIGTERM  # as uvicorn ends
    assert "Traceback" not in server.log


def test_a_request_to_reload_before_there_is_a_model_ends_nothing(
    start: Start, tmp_path: Path
) -> None:
    server = signalled(start, tmp_path, "import", "'numpy'", signal.SIGHUP).ready()
    assert server.stop() == 0
