"""Servers as users run them: processes on free ports, asked over HTTP. Most tests need less:
see `in_process`.
"""

import contextlib
import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from onnx import TensorProto, helper

from checks.ports import free_ports
from runtime.engines.mock import MockEngine
from tests.server.gate import GATED_TOKENS, Gate
from tests.server.gated import gated
from tests.server.in_process import InProcess, Serve, in_process
from tests.small_graphs import write_graph
from tests.waiting import PATIENCE_S, wait_until

# The mock counts bytes, so these limits are easy to reach.
MAX_TOKENS = 200
BODY_LIMIT_BYTES = 100_000
_CLI = "import sys; from server.cli import main; sys.exit(main())"
_ROOT = Path(__file__).parents[2]


# The mock, whose requests may be held for as long as a test wants.
HELD = {"ENABLE_MOCK_INFERENCE": "1", "NIM_REQUEST_TIMEOUT_S": "3600"}


class Server:
    """One server process, made with `options` of Popen; `log` is everything that it has written
    so far."""

    def __init__(
        self,
        folder: Path,
        environment: dict[str, str],
        *arguments: str,
        triton: bool = False,
        **options: Any,
    ) -> None:
        self.port, self.metrics_port, self.grpc_port, self.triton_port = free_ports(4)
        self.url = f"http://127.0.0.1:{self.port}"
        self.metrics_url = f"http://127.0.0.1:{self.metrics_port}"
        settings = {
            "PATH": os.environ["PATH"],
            "CUDA_VISIBLE_DEVICES": "",
            "PYTHONWARNINGS": "error",
            "NIM_HTTP_API_PORT": str(self.port),
            "NIM_TRITON_METRICS_PORT": str(self.metrics_port),
            "NIM_TRITON_GRPC_PORT": str(self.grpc_port),
            "NIM_HTTP_TRITON_PORT": str(self.triton_port if triton else 0),
            "NIM_BIND_ADDR": "127.0.0.1:1",
            **environment,
        }
        self._log_file = folder / f"server-{self.port}.log"
        command = [
            sys.executable,
            *(a.format(port=self.port) for a in arguments or ("-c", _CLI)),
        ]
        # One client: every new one reads the machine's certificates again.
        self.http = httpx.Client(base_url=self.url, timeout=PATIENCE_S)
        with self._log_file.open("wb") as out:
            self.process = subprocess.Popen(
                command, cwd=_ROOT, env=settings, stdout=out, stderr=out, **options
            )

    @property
    def log(self) -> str:
        return self._log_file.read_text("utf-8", "replace")

    def get(self, path: str) -> httpx.Response:
        return self.http.get(path)

    def rank(self, body: object, **options: Any) -> httpx.Response:
        return self.http.post("/v1/ranking", json=body, **options)

    def end(self) -> None:
        self.http.close()
        self.process.kill()
        self.process.wait()

    def wait_for(self, path: str, status: int) -> "Server":
        """Until GET `path` answers `status`; fails at once when the process has ended."""

        def answers() -> bool:
            assert self.process.poll() is None, self.log
            with contextlib.suppress(httpx.TransportError):
                return self.get(path).status_code == status
            return False

        self.wait_until(answers)
        return self

    def wait_until(self, true: Callable[[], bool]) -> None:
        wait_until(true, lambda: self.log)

    def ready(self) -> "Server":
        return self.wait_for("/v1/health/ready", 200)

    def wait_until_deaf(self) -> None:
        """Until it takes no more connections: it has been told to stop a while ago."""

        def refused() -> bool:
            try:
                socket.create_connection(("127.0.0.1", self.port), PATIENCE_S).close()
            except ConnectionError:
                return True
            return False

        self.wait_until(refused)

    def exit_code(self) -> int:
        return self.process.wait(PATIENCE_S)

    def stop(self) -> int:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        return self.exit_code()


class GatedServer(Server):
    """A server with the mock, whose engine calls with rows of `from_tokens` tokens or more wait
    at `gate`."""

    def __init__(
        self,
        folder: Path,
        environment: dict[str, str],
        *arguments: str,
        from_tokens: int = GATED_TOKENS,
    ) -> None:
        self.gate = Gate()
        ends = (self.gate.begun, self.gate.through)
        super().__init__(
            folder,
            {**HELD, **environment},
            *("-m", "tests.server.gated", *map(str, (*ends, from_tokens)), *arguments),
            pass_fds=ends,
        )
        self.gate.give_ends_away()

    def end(self) -> None:
        super().end()
        self.gate.close()


Start = Callable[..., Server]
StartGated = Callable[..., GatedServer]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts servers that end with the test."""
    with contextlib.ExitStack() as servers:

        def begin(
            environment: dict[str, str],
            *arguments: str,
            kind: type[Server] = Server,
            **options: Any,
        ) -> Server:
            server = kind(tmp_path, environment, *arguments, **options)
            servers.callback(server.end)
            return server

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
def mock_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A process with the settings MOCK, ready. It has a second port for KServe, and logs all."""
    given = {**MOCK, "NIM_LOG_LEVEL": "DEBUG"}
    server = Server(tmp_path_factory.mktemp("mock"), given, triton=True)
    yield server.ready()
    assert server.stop() == 0, server.log
    server.end()
    assert "Traceback" not in server.log


@pytest.fixture(scope="session")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A process that gives a request one second."""
    given = {**MOCK, "NIM_REQUEST_TIMEOUT_S": "1"}
    server = Server(tmp_path_factory.mktemp("hasty"), given)
    yield server.ready()
    server.end()
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


@pytest.fixture
def client(mock_in_process: InProcess) -> Iterator[httpx.Client]:
    """A client of `mock_in_process` that proves, after each test, that the next request works."""
    yield mock_in_process.http
    body = {"query": {"text": "still"}, "passages": [{"text": "there"}]}
    assert mock_in_process.rank(body).status_code == 200


# Rows of so many tokens make the engine of `bare_directory` give NaN, and fail.
NAN_TOKENS = 150
FAIL_TOKENS = 200


@pytest.fixture
def bare_directory(tmp_path: Path) -> Path:
    """What NIM_CUSTOM_MODEL mounts: model.onnx and tokenizer/ (one token a byte).

    A row's logit is its number of tokens.
    """
    table = [math.nan if count == NAN_TOKENS else float(count) for count in range(FAIL_TOKENS)]
    nodes = [
        helper.make_node("Add", ["input_ids", "attention_mask"], ["sum"]),
        helper.make_node("Min", ["sum", "attention_mask"], ["real"]),
        helper.make_node("ReduceSum", ["real", "row_axis"], ["count"], keepdims=1),
        helper.make_node("Gather", ["table", "count"], ["logits"]),
    ]
    constants = [
        helper.make_tensor("row_axis", TensorProto.INT64, [1], [1]),
        helper.make_tensor("table", TensorProto.FLOAT, [FAIL_TOKENS], table),
    ]
    return write_graph(tmp_path / "bare", nodes, constants)
