"""The server checks of `make test-gpu`: right answers pass, each wrong one fails.

The answers are played. That the server gives them is shown in tests/server, and on a GPU.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from checks.gpu import lost, service
from checks.gpu.service import (
    LONG,
    Answer,
    Service,
    admits_a_lost_device,
    break_it,
    missing,
    serving,
    survives_no_memory,
    with_tokenizer,
)
from checks.serving import ServerFailed


def reply(status: int, message: str, **headers: str) -> Answer:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Answer(status, named, json.dumps({"message": message}).encode())


def ranked(passages: tuple[str, ...], shift: float = 0.0) -> Answer:
    rankings = [{"index": i, "logit": len(text) + shift} for i, text in enumerate(passages)]
    return Answer(200, {}, json.dumps({"rankings": rankings}).encode())


NO_MEMORY = reply(503, "there is no memory for this request", Retry_After="2")
LOST = reply(503, "the GPU is lost; this server needs a new process")


@dataclass
class Played:
    """Replaces a Service without memory for the longest row, whose GPU can be lost."""

    no_memory: Answer = NO_MEMORY
    health_after: tuple[int, int] = (200, 200)
    others_after: Answer | None = None
    shift_after: float = 0.0
    lost: Answer = LOST
    health_lost: tuple[int, int] = (503, 503)
    log: str = ""
    refused: bool = False
    broken: bool = False

    def ranks(self, *passages: str) -> Answer:
        if self.broken:
            return self.lost
        if LONG in passages:
            self.refused = True
            return ranked(passages) if self.no_memory.status == 200 else self.no_memory
        if self.refused and self.others_after:
            return self.others_after
        return ranked(passages, self.shift_after if self.refused else 0.0)

    def health(self) -> tuple[int, int]:
        return self.health_lost if self.broken else self.health_after

    def stop(self) -> int:
        return 0


def lose(played: Any) -> None:
    played.broken = True


def test_a_server_that_does_right_passes() -> None:
    played: Any = Played()
    assert "503, come back later" in survives_no_memory(played)
    assert "exit status 0" in admits_a_lost_device(played, lose)


@pytest.mark.parametrize(
    "wrong",
    [
        {"no_memory": replace(NO_MEMORY, status=200)},
        {"no_memory": replace(NO_MEMORY, status=500)},
        {"no_memory": replace(NO_MEMORY, headers={})},
        {"no_memory": reply(503, "the queue is full", Retry_After="2")},
        {"health_after": (200, 503)},
        {"others_after": NO_MEMORY},
        {"shift_after": 0.1},
    ],
)
def test_a_server_that_takes_a_lack_of_memory_otherwise_does_not_pass(wrong: Any) -> None:
    played: Any = replace(Played(), **wrong)
    with pytest.raises(AssertionError):
        survives_no_memory(played)


@pytest.mark.parametrize(
    "wrong",
    [
        {"lost": ranked(("a short passage",))},
        {"lost": NO_MEMORY},
        {"health_lost": (200, 503)},
        {"health_lost": (503, 200)},
    ],
)
def test_a_server_that_takes_a_lost_gpu_otherwise_does_not_pass(wrong: Any) -> None:
    played: Any = replace(Played(), **wrong)
    with pytest.raises(AssertionError):
        admits_a_lost_device(played, lose)


def test_a_server_that_does_not_start_shows_its_log(tmp_path: Path) -> None:
    code = "raise SystemExit('nothing to serve')"
    with (
        pytest.raises(ServerFailed, match="nothing to serve"),
        serving(tmp_path / "log", tmp_path, {}, code),
    ):
        pass


def test_what_the_server_lacks_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
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
