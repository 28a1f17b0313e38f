"""What `make test-gpu` asks of a whole server, asked of one whose CPU plays the GPU: the checks
pass where it does right, and fail where it does not."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from types import SimpleNamespace

import pytest

from checks.gpu import lost, service
from checks.gpu.service import (
    Service,
    admits_a_lost_device,
    break_it,
    missing,
    serving,
    survives_no_memory,
    with_tokenizer,
)
from tests.runtime.conftest import write_bare_directory

# ONNX Runtime's CPU engine with memory for {room} tokens, and a device that can be lost.
_PLAYED = """
import sys, threading, time
from pathlib import Path
import runtime.engines.ort as ort
from runtime.errors import DeviceLost, OutOfMemory
from server.cli import main
trigger, broken, compute = Path(sys.argv.pop()), [], ort.OrtEngine.run

def wait():
    while not trigger.exists():
        time.sleep(0.02)
    broken.append(True)
    trigger.unlink()

def run(self, inputs):
    if broken:
        raise {lost}
    if inputs["input_ids"].size > {room}:
        raise OutOfMemory
    return compute(self, inputs)

ort.OrtEngine.device = "cuda:0"
ort.OrtEngine.run = run
threading.Thread(target=wait, daemon=True).start()
sys.exit(main())
"""

Start = Callable[..., AbstractContextManager[Service]]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    model = write_bare_directory(tmp_path / "bare")

    def started(room: int = 1 << 30, lost: str = "DeviceLost()") -> AbstractContextManager[Service]:
        code = _PLAYED.format(room=room, lost=lost)
        return serving(tmp_path / "log", model, {}, code)

    return started


def test_a_server_without_memory_for_the_longest_row(start: Start) -> None:
    with start(room=500) as server:
        assert "503, come back later" in survives_no_memory(server)
        # The first call of all was the longest row.
        assert "no memory for one row of 8192 tokens" in server.log
        assert server.stop() == 0


def test_a_server_with_memory_for_everything_does_not_pass(start: Start) -> None:
    with start() as server, pytest.raises(AssertionError, match="200"):
        survives_no_memory(server)


def test_a_server_that_answers_otherwise_does_not_pass(start: Start) -> None:
    with (
        start(lost="OutOfMemory()") as server,
        pytest.raises(AssertionError, match="no memory for this request"),
    ):
        admits_a_lost_device(server, break_it)


def test_a_server_whose_device_is_lost(start: Start) -> None:
    with start() as server:
        assert "exit status 0" in admits_a_lost_device(server, break_it)
        assert server.process.poll() == 0


def test_a_server_that_does_not_start_shows_its_log(tmp_path: Path) -> None:
    code = "raise SystemExit('nothing to serve')"
    with (
        pytest.raises(AssertionError, match="nothing to serve"),
        serving(tmp_path / "log", tmp_path, {}, code),
    ):
        pass


def test_what_the_server_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    assert missing() is None
    monkeypatch.setattr(service, "_IMPORT", "import litestar.no_such_part")
    assert missing() == "ModuleNotFoundError: No module named 'litestar.no_such_part'"


def test_a_graph_becomes_what_a_server_mounts(tmp_path: Path) -> None:
    exported = tmp_path / "exported"
    exported.mkdir()
    (exported / "model.onnx").write_bytes(b"graph")
    (exported / "model.onnx.data").write_bytes(b"weights")
    found = with_tokenizer(exported, tmp_path / "served")
    names = sorted(
        path.relative_to(found).as_posix() for path in found.rglob("*") if path.is_file()
    )
    assert names == ["model.onnx", "model.onnx.data", "tokenizer/tokenizer.json"]


def test_the_gpu_is_broken_when_the_file_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[bool] = []
    monkeypatch.setattr(lost, "break_context", lambda: done.append(True))
    played = Service.__new__(Service)
    played.trigger = tmp_path / "break"
    played.process = SimpleNamespace(poll=lambda: None)
    lost.break_when(played.trigger)
    break_it(played)
    assert done == [True]
