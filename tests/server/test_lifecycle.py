"""From start to stop: live before ready, clear failures, clean ends."""

import asyncio
import json
import os
import re
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from checks.held import HELD_SERVE, let_go
from server.kserve.grpc_service import GrpcServer
from server.service import Service
from server.settings import SettingsError, read_settings
from tests.server.conftest import Server, Start
from tests.server.in_process import GaveUp, Serve
from tests.waiting import PATIENCE_S

MOCK = {"ENABLE_MOCK_INFERENCE": "1"}
UVICORN = ("-m", "uvicorn", "--factory", "server.app:create_app", "--port", "{port}")
BODY = {"query": {"text": "q"}, "passages": [{"text": "bb"}, {"text": "a"}, {"text": "ccc"}]}


@pytest.fixture
def pipe(tmp_path: Path) -> Path:
    """What a server waits at that is started with `held(pipe)`, until the pipe is opened to
    write."""
    os.mkfifo(tmp_path / "pipe")
    return tmp_path / "pipe"


def held(pipe: Path) -> tuple[str, ...]:
    return ("-c", HELD_SERVE, str(pipe))


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as other:
        yield other.getsockname()[1]


def critical_lines(log: str) -> list[str]:
    return [line for line in log.splitlines() if " CRITICAL " in line]


def test_a_model_that_fails_after_a_while(start: Start, bare_directory: Path, pipe: Path) -> None:
    given = {"NIM_CUSTOM_MODEL": str(bare_directory), "MAX_SEQUENCE_LENGTH": "999999"}
    server = start(given, *held(pipe))
    server.wait_for("/v1/health/ready", 503)
    server.wait_until(lambda: let_go(pipe))
    assert server.ends() == 1
    (line,) = critical_lines(server.log)
    assert "MAX_SEQUENCE_LENGTH=999999" in line
    assert "8192" in line
    assert "Traceback" not in server.log


def test_a_model_that_is_broken(start: Start, bare_directory: Path) -> None:
    (bare_directory / "model.onnx").write_bytes(b"not a graph")
    server = start({"RERANK_MODEL_DIR": str(bare_directory)}, *UVICORN)
    assert server.ends() == 1
    assert len(critical_lines(server.log)) == 1
    assert "Traceback" not in server.log


def test_an_empty_directory(serve: Serve, tmp_path: Path) -> None:
    with pytest.raises(GaveUp, match=re.escape(f"NIM_CUSTOM_MODEL={tmp_path}")):
        serve({"NIM_CUSTOM_MODEL": str(tmp_path)})


def test_a_bare_directory_is_served_with_raw_logits(start: Start, bare_directory: Path) -> None:
    server = start(
        {"NIM_TRITON_MAX_BATCH_SIZE": "2", "RERANK_MAX_PASSAGES": "100"},
        "-c",
        "import sys; from server.cli import main; sys.exit(main())",
        "--rank",
        str(bare_directory),
    ).ready()
    found = server.rank(BODY).json()
    prompt = len("question:q \n \n passage:")
    assert found["rankings"] == [
        {"index": 2, "logit": prompt + 3.0},
        {"index": 0, "logit": prompt + 2.0},
        {"index": 1, "logit": prompt + 1.0},
    ]
    model = server.get("/v1/metadata").json()["modelInfo"][0]
    assert (model["mock"], model["proven"], model["maxBatchSize"]) == (False, False, 100)
    many = {**BODY, "passages": [{"text": "x" * (i + 1)} for i in range(100)]}
    ranked = server.rank(many).json()["rankings"]
    assert [r["index"] for r in ranked] == list(range(99, -1, -1))


def test_settings_that_cannot_be_used(start: Start) -> None:
    server = start({**MOCK, "NIM_REQUIRE_AUTH": "true"}, *UVICORN)
    assert server.ends() != 0
    assert "NIM_REQUIRE_AUTH: found " in server.log
    assert len(server.log.splitlines()) == 1


def test_a_taken_port_of_grpc(taken_port: int) -> None:
    async def listen() -> None:
        await GrpcServer(Service(read_settings(MOCK))).start("127.0.0.1", taken_port)

    with pytest.raises(SettingsError, match=f"NIM_TRITON_GRPC_PORT: found port {taken_port}"):
        asyncio.run(listen())


def test_ports_can_be_off(start: Start) -> None:
    server = start({**MOCK, "NIM_TRITON_METRICS_PORT": "0", "NIM_TRITON_GRPC_PORT": "0"}).ready()
    for port in (server.metrics_port, server.grpc_port):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), PATIENCE_S)
    assert "gRPC" not in server.log


def test_plain_uvicorn(start: Start) -> None:
    server = start({**MOCK, "NIM_JSONL_LOGGING": "1"}, *UVICORN).ready()
    assert server.rank(BODY).status_code == 200
    metrics = httpx.get(server.metrics_url + "/metrics", timeout=PATIENCE_S)
    assert metrics.status_code == 200
    server.stop()
    lines = [json.loads(line) for line in server.log.splitlines() if line.startswith("{")]
    assert {"time", "level", "logger", "message"} <= set(lines[-1])
    (line,) = [entry["message"] for entry in lines if "/v1/ranking" in entry["message"]]
    assert line.startswith("POST /v1/ranking 200 rows=3 tokens=")
    assert '"POST /v1/ranking HTTP/1.1"' not in server.log


def test_several_workers_are_refused(start: Start) -> None:
    server = start({**MOCK, "WEB_CONCURRENCY": "2"}, *UVICORN)
    server.ends()
    assert "found several uvicorn workers" in server.log
    assert "leave --workers and WEB_CONCURRENCY out" in server.log


def test_the_log_holds_no_text_and_no_query_string(mock_server: Server) -> None:
    """At the level DEBUG."""
    body = {"query": {"text": "Zq7text"}, "passages": [{"text": "Zq7text"}]}
    headers = {"authorization": "Bearer Zq7text", "x-request-id": "Zq7text is no id"}
    asked = mock_server.http.post("/v1/ranking?key=Zq7text", json=body, headers=headers)
    missing = mock_server.get("/Zq7text")
    for answer in (asked, missing):  # a request's line is written after its answer
        request_id = f"request_id={answer.headers['x-request-id']}"
        mock_server.wait_until(lambda request_id=request_id: request_id in mock_server.log)
    assert "POST /v1/ranking 200" in mock_server.log
    assert "DEBUG" in mock_server.log
    assert "Zq7text" not in mock_server.log


def test_settings_that_change_answers(serve: Serve) -> None:
    server = serve(
        {
            **MOCK,
            "NIM_SERVED_MODEL_NAME": "acme/my.ranker",
            "RERANK_TOO_LONG_STATUS": "400",
            "NIM_TRITON_MAX_SEQ_LENGTH": "40",
            "NIM_TRITON_MAX_BATCH_SIZE": "2",
        }
    )
    assert server.get("/v1/models").json()["data"][0]["id"] == "acme/my.ranker"
    two = {**BODY, "passages": BODY["passages"][:2]}
    for name in ("acme/my.ranker", "my_ranker", "nvidia/llama-3.2-nv-rerankqa-1b-v2"):
        assert server.rank({**two, "model": name}).status_code == 200
    assert server.rank(BODY).status_code == 400
    too_long = server.rank({**two, "passages": [{"text": "x" * 40}]})
    assert too_long.status_code == 400
    assert "exceeds maximum allowed token size 40" in too_long.json()["message"]
    assert too_long.json()["type"] == "invalid_request_error"
