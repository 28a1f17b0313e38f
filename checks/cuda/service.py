"""Whole servers under the fake CUDA: one for each family, and what they say of a failing card."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from checks.cuda.families import REPLAYED
from checks.cuda.machine import WORK, Machine
from checks.cuda.trace import VARIABLE, count
from checks.gpu.service import Service, admits_a_lost_device, serving, survives_no_memory
from runtime.profile import Kind

# `rerank-serve` from the sources; its last argument is for checks/gpu.
_SERVE = "import sys; sys.argv.pop(); from server.cli import main; sys.exit(main())"
_PROFILE = "cuda-fp16"
_TEXTS = ["a short passage", "another one, which is somewhat longer"]
_ROUTES: dict[Kind, tuple[str, dict[str, Any]]] = {
    "rank": ("/v1/ranking", {"query": {"text": "q"}, "passages": [{"text": t} for t in _TEXTS]}),
    "embed": ("/v1/embeddings", {"input": _TEXTS, "input_type": "passage"}),
}
# Beside the weights: less than the activations of the longest row, more than those of short ones.
_ROOM_BYTES = 2 << 20


def answers(machine: Machine, model: Path, kind: Kind, **settings: str) -> str:
    """A server on `model` answers a request, computed by the CUDA provider; returns the route and
    status. Raises AssertionError and ServerFailed."""
    route, body = _ROUTES[kind]
    with _serving(machine, model, **settings) as service:
        named = service.get("/v1/models").json()["data"][0]["id"]
        reply = service.http.post(route, json={"model": named, **body})
        assert reply.status_code == 200, (reply.text[:500], service.log[-1500:])
        facts = service.get("/v1/metadata").text
        assert "onnxruntime-cuda" in facts, facts
    return f"{route} {reply.status_code}"


def replays(machine: Machine, model: Path) -> str:
    """A server on `model`, whose target asks for captured graphs, replays them for small requests.
    Raises as `answers` does."""
    trace = WORK / "served-trace"
    trace.unlink(missing_ok=True)
    settings = {VARIABLE: str(trace), "NIM_MODEL_PROFILE": REPLAYED[1]}
    said = answers(machine, model, "rank", **settings)
    counts = count(trace.read_text().splitlines())
    assert not counts.illegal, counts.illegal
    assert 0 < counts.captured < counts.replayed, counts
    return f"{said}, {counts.captured} graphs captured, replayed {counts.replayed} times"


def has_no_memory(machine: Machine, model: Path) -> str:
    """See checks/gpu: a row without memory is refused, and all others are served."""
    size = sum(file.stat().st_size for file in model.glob("model.onnx*"))
    room = {"RERANK_GPU_MEMORY_BYTES": str(size + _ROOM_BYTES)}
    with _serving(machine, model, **room) as service:
        return survives_no_memory(service)


def loses_the_device(machine: Machine, model: Path) -> str:
    """See checks/gpu: every request is refused, and health asks for a restart."""
    file = WORK / "lost"
    file.unlink(missing_ok=True)
    with _serving(machine, model, FAKE_LOST=str(file)) as service:
        return admits_a_lost_device(service, lambda _: file.touch())


FAILURES: tuple[Callable[[Machine, Path], str], ...] = (has_no_memory, loses_the_device)


def _serving(machine: Machine, model: Path, **settings: str) -> AbstractContextManager[Service]:
    given = machine.environment(90, **{"NIM_MODEL_PROFILE": _PROFILE, **settings})
    return serving(WORK / "service", model, given, _SERVE)
