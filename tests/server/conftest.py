"""Servers as users run them: processes on free ports, asked over HTTP. Most tests need less:
see `in_process`.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from checks.faults.models import write_model
from checks.ports import free_ports
from checks.serving import Server
from runtime.engines.mock import MockEngine
from tests.server.gate import GATED_TOKENS, Gate
from tests.server.gated import gated
from tests.server.in_process import InProcess, Serve, in_process

# The mock counts bytes, so these limits are easy to reach.
MAX_TOKENS = 200
BODY_LIMIT_BYTES = 100_000


# The mock, whose requests may be held for as long as a test wants.
HELD = {"ENABLE_MOCK_INFERENCE": "1", "NIM_REQUEST_TIMEOUT_S": "3600"}


class GatedServer(Server):
    """A server with the mock, whose engine calls with rows of `from_tokens` tokens or more wait
    at `gate`."""

    def __init__(
        self,
        settings: Mapping[str, str],
        *arguments: str,
        from_tokens: int = GATED_TOKENS,
    ) -> None:
        self.gate = Gate()
        ends = (self.gate.begun, self.gate.through)
        super().__init__(
            {**HELD, **settings},
            *("-m", "tests.server.gated", *map(str, (*ends, from_tokens)), *arguments),
            pass_fds=ends,
        )
        self.gate.give_ends_away()

    def close(self) -> None:
        super().close()
        self.gate.close()


Start = Callable[..., Server]
StartGated = Callable[..., GatedServer]


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts servers that end with the test."""
    with contextlib.ExitStack() as servers:

        def begin(*given: Any, kind: type[Server] = Server, **options: Any) -> Server:
            return servers.enter_context(kind(*given, **options))

        yield begin


@pytest.fixture
def start_gated(start: Start) -> StartGated:
    """Starts gated servers that end with the test."""
    return partial(start, kind=GatedServer)


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Iterator[Gate]:
    """What the mock's calls with long rows wait at in this process. Open it at last."""
    gate = Gate()
    monkeypatch.setattr(MockEngine, "run", gated(gate.begun, gate.through, GATED_TOKENS))
    yield gate
    gate.close()


# Made-up scores and small limits.
MOCK = {
    "ENABLE_MOCK_INFERENCE": "1",
    "MAX_SEQUENCE_LENGTH": str(MAX_TOKENS),
    "NIM_HTTP_BODY_LIMIT_BYTES": str(BODY_LIMIT_BYTES),
    "MODEL_VERSION": "1.2.3",
    "NGC_API_KEY": "ngcapikey",
    "NIM_TRITON_LOG_VERBOSE": "1",
    "RERANK_MODEL_CONTROL": "true",
    "OMP_NUM_THREADS": "1",
}
# It asks for one of two keys.
GUARDED = {
    "ENABLE_MOCK_INFERENCE": "1",
    "NIM_REQUIRE_AUTH": "true",
    "NGC_API_KEY": "key-one",
    "NVIDIA_API_KEY": "key-zwei-ü",
}


@pytest.fixture(scope="session")
def mock_server() -> Iterator[Server]:
    """A process with the settings MOCK, ready. It has a second port for KServe, and logs all."""
    with Server({**MOCK, "NIM_LOG_LEVEL": "DEBUG"}, triton=True) as server:
        yield server.ready()
        assert server.stop() == 0, server.log
        assert "Traceback" not in server.log


@pytest.fixture(scope="session")
def hasty() -> Iterator[Server]:
    """A process that gives a request one second."""
    with Server({**MOCK, "NIM_REQUEST_TIMEOUT_S": "1"}) as server:
        yield server.ready()
        assert "Traceback" not in server.log


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Servers in this process that end with the test."""
    with contextlib.ExitStack() as running:
        yield lambda environment: running.enter_context(in_process(environment))


@pytest.fixture(scope="session")
def mock_in_process() -> Iterator[InProcess]:
    """A server in this process with the settings MOCK."""
    with in_process(MOCK) as server:
        yield server


@pytest.fixture(scope="session")
def guarded() -> Iterator[InProcess]:
    """A server in this process with the settings GUARDED."""
    with in_process(GUARDED) as server:
        yield server


# Small limits of images.
IMAGE_BYTES, IMAGE_PIXELS, IMAGE_TILES = 60_000, 250_000, 24
VISION = {
    "NIM_MAX_IMAGE_BYTES": str(IMAGE_BYTES),
    "RERANK_IMAGE_MAX_PIXELS": str(IMAGE_PIXELS),
    "RERANK_IMAGE_MAX_TILES": str(IMAGE_TILES),
}


@pytest.fixture(scope="session")
def vision_server(vision_artifact: Path, vision_embed_artifact: Path) -> Iterator[InProcess]:
    """A server in this process of the tiny reranker and embedder of texts and images, with the
    settings VISION."""
    models = {"RERANK_MODEL_DIR": vision_artifact, "EMBED_MODEL_DIR": vision_embed_artifact}
    over_http, over_grpc = map(str, free_ports(2))  # Triton's clients want a connection
    ports = {"NIM_HTTP_TRITON_PORT": over_http, "NIM_TRITON_GRPC_PORT": over_grpc}
    with in_process({name: str(path) for name, path in models.items()} | VISION | ports) as server:
        yield server


@pytest.fixture
def client(mock_in_process: InProcess) -> Iterator[httpx.Client]:
    """A client of `mock_in_process` that proves, after each test, that the next request works."""
    yield mock_in_process.http
    body = {"query": {"text": "still"}, "passages": [{"text": "there"}]}
    assert mock_in_process.rank(body).status_code == 200


@pytest.fixture
def bare_directory(tmp_path: Path) -> Path:
    """What NIM_CUSTOM_MODEL mounts: model.onnx and tokenizer/ (one token a byte).

    A row's logit is its number of tokens; some numbers fail (checks/faults/models.py).
    """
    return write_model(tmp_path / "bare")
