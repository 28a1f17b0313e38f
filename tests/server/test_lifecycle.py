"""From start to stop: live before ready, clear failures, clean ends."""

import json
import os
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest

from server.kserve.messages import Messages

Start = Callable[..., Any]

MOCK = {"ENABLE_MOCK_INFERENCE": "1"}
UVICORN = ("-m", "uvicorn", "--factory", "server.app:create_app", "--port", "{port}")
BODY = {"query": {"text": "q"}, "passages": [{"text": "bb"}, {"text": "a"}, {"text": "ccc"}]}


KSERVE_NAME = "nvidia_llama_nemotron_rerank_1b_v2"


def grpc_ready(server: Any) -> bool:
    """What gRPC's ModelReady says; any other status than OK raises."""
    messages = Messages()
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        ask = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelReady",
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=messages["ModelReadyResponse"].FromString,
        )
        return bool(ask(messages["ModelReadyRequest"](name=KSERVE_NAME), timeout=10).ready)


def block(directory: Path) -> Path:
    """Make opening `directory` wait until someone opens the returned pipe for writing."""
    pipe = directory / "tokenizer" / "tokenizer_config.json"
    os.mkfifo(pipe)
    return pipe


def unblock(pipe: Path) -> None:
    pipe.open("wb").close()


def critical_lines(log: str) -> list[str]:
    return [line for line in log.splitlines() if " CRITICAL " in line]


def test_a_model_that_loads_slowly(start: Start, bare_directory: Path) -> None:
    pipe = block(bare_directory)
    server = start({"NIM_CUSTOM_MODEL": str(bare_directory)})
    server.wait_for("/v1/health/live", 200)
    assert server.get("/v1/health/ready").status_code == 503
    assert server.get("/v1/health/ready").json()["message"] == "Service is not ready."
    assert server.get("/v2/health/ready").status_code == 503
    assert server.get(f"/v2/models/{KSERVE_NAME}/ready").status_code == 503
    assert not grpc_ready(server)
    health = server.get("/health")
    assert (health.status_code, health.json()["model_loaded"]) == (503, False)
    for response in (
        server.rank(BODY),
        server.get("/v1/models"),
        server.get("/v1/metadata"),
    ):
        assert response.status_code == 503
        assert int(response.headers["retry-after"]) >= 1
        assert response.json()["type"] == "invalid_request_error"
    unblock(pipe)
    server.ready()
    assert grpc_ready(server)
    assert server.stop() == 0


def test_a_model_that_fails_after_a_while(start: Start, bare_directory: Path) -> None:
    pipe = block(bare_directory)
    given = {"NIM_CUSTOM_MODEL": str(bare_directory), "MAX_SEQUENCE_LENGTH": "999999"}
    server = start(given)
    server.wait_for("/v1/health/ready", 503)
    unblock(pipe)
    assert server.exit_code() == 1
    (line,) = critical_lines(server.log)
    assert "MAX_SEQUENCE_LENGTH=999999" in line
    assert "8192" in line
    assert "Traceback" not in server.log


def test_a_model_that_is_broken(start: Start, bare_directory: Path) -> None:
    (bare_directory / "model.onnx").write_bytes(b"not a graph")
    for arguments in ((), UVICORN):
        server = start({"RERANK_MODEL_DIR": str(bare_directory)}, *arguments)
        assert server.exit_code() == 1
        assert len(critical_lines(server.log)) == 1
        assert "Traceback" not in server.log


def test_an_empty_directory(start: Start, tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    server = start({"NIM_CUSTOM_MODEL": str(empty)})
    assert server.exit_code() == 1
    assert f"NIM_CUSTOM_MODEL={empty}" in critical_lines(server.log)[0]


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


@pytest.mark.parametrize(
    ("given", "names"),
    [
        ({"NIM_HTTP_API_PORT": "http"}, "NIM_HTTP_API_PORT"),
        ({"NIM_REQUIRE_AUTH": "true"}, "NIM_REQUIRE_AUTH"),
        ({"ENABLE_MOCK_INFERENCE": "0"}, "NIM_CUSTOM_MODEL"),
    ],
)
@pytest.mark.parametrize("arguments", [(), UVICORN])
def test_settings_that_cannot_be_used(
    start: Start, given: dict[str, str], names: str, arguments: tuple[str, ...]
) -> None:
    server = start({**MOCK, **given}, *arguments)
    assert server.exit_code() != 0
    assert f"{names}: found " in server.log
    assert len(server.log.splitlines()) == 1


def test_a_taken_metrics_port(start: Start) -> None:
    first = start(MOCK).ready()
    for arguments in ((), UVICORN):
        given = {**MOCK, "NIM_TRITON_METRICS_PORT": str(first.metrics_port)}
        second = start(given, *arguments)
        assert second.exit_code() == 1
        assert f"NIM_TRITON_METRICS_PORT: found port {first.metrics_port}" in second.log
        assert "Traceback" not in second.log
    assert first.get("/v1/health/ready").status_code == 200


def test_a_taken_api_port(start: Start) -> None:
    first = start(MOCK).ready()
    second = start({**MOCK, "NIM_HTTP_API_PORT": str(first.port)})
    assert second.exit_code() == 2
    assert f"NIM_HTTP_API_PORT: found port {first.port}" in second.log


def test_the_metrics_port_can_be_off(start: Start) -> None:
    server = start({**MOCK, "NIM_TRITON_METRICS_PORT": "0"}).ready()
    with pytest.raises(httpx.ConnectError):
        httpx.get(server.metrics_url + "/metrics")


def test_plain_uvicorn(start: Start) -> None:
    server = start({**MOCK, "NIM_JSONL_LOGGING": "1"}, *UVICORN).ready()
    assert server.rank(BODY).status_code == 200
    assert httpx.get(server.metrics_url + "/metrics").status_code == 200
    server.stop()
    lines = [json.loads(line) for line in server.log.splitlines() if line.startswith("{")]
    assert {"time", "level", "logger", "message"} <= set(lines[-1])
    (line,) = [entry["message"] for entry in lines if "/v1/ranking" in entry["message"]]
    assert line.startswith("POST /v1/ranking 200 rows=3 tokens=")
    assert '"POST /v1/ranking HTTP/1.1"' not in server.log


@pytest.mark.parametrize("how", ["--workers", "WEB_CONCURRENCY"])
def test_several_workers_are_refused(start: Start, how: str) -> None:
    asked = (("--workers", "2"), {}) if how == "--workers" else ((), {"WEB_CONCURRENCY": "2"})
    arguments, variables = asked
    server = start({**MOCK, **variables}, *UVICORN, *arguments)
    server.exit_code()
    assert "found several uvicorn workers" in server.log
    assert "leave --workers and WEB_CONCURRENCY out" in server.log


def test_the_log_holds_no_text_and_no_query_string(start: Start) -> None:
    server = start({**MOCK, "NIM_LOG_LEVEL": "DEBUG"}).ready()
    body = {"query": {"text": "Zq7text"}, "passages": [{"text": "Zq7text"}]}
    headers = {"authorization": "Bearer Zq7text", "x-request-id": "Zq7text is no id"}
    httpx.post(server.url + "/v1/ranking?key=Zq7text", json=body, headers=headers)
    httpx.get(server.url + "/Zq7text")
    server.stop()
    assert "POST /v1/ranking 200" in server.log
    assert "Zq7text" not in server.log


def test_sigterm_flips_readiness_and_lets_requests_finish(start: Start) -> None:
    server = start(MOCK).ready()
    body = json.dumps(BODY).encode()
    head = f"POST /v1/ranking HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(head.encode() + body[:10])
        server.get("/v1/health/live")
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.1)
        assert server.get("/v1/health/ready").status_code == 503
        assert server.get("/v1/health/live").status_code == 200
        stopping = server.get(f"/v2/models/{KSERVE_NAME}/ready")
        assert stopping.status_code == 503
        assert set(stopping.json()) == {"error"}
        assert not grpc_ready(server)
        time.sleep(1)
        assert server.process.poll() is None
        connection.sendall(body[10:])
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
    assert server.exit_code() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_idle_server_stops_at_once(start: Start, number: int) -> None:
    server = start(MOCK).ready()
    began = time.monotonic()
    server.process.send_signal(number)
    assert server.exit_code() == 0
    assert time.monotonic() - began < 3
    assert "Traceback" not in server.log


def test_a_server_that_still_loads_stops_as_well(start: Start, bare_directory: Path) -> None:
    block(bare_directory)
    server = start({"NIM_CUSTOM_MODEL": str(bare_directory)})
    server.wait_for("/v1/health/live", 200)
    assert server.stop() == 0
    assert "Traceback" not in server.log


def test_kill_leaves_nothing_behind(start: Start) -> None:
    server = start(MOCK).ready()
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text()
    assert children == ""
    server.process.kill()
    assert server.exit_code() == -signal.SIGKILL
    again = {"NIM_HTTP_API_PORT": str(server.port)}
    again["NIM_TRITON_METRICS_PORT"] = str(server.metrics_port)
    successor = start({**MOCK, **again})
    successor.http.base_url = server.url
    successor.ready()


def test_settings_that_change_answers(start: Start) -> None:
    server = start(
        {
            **MOCK,
            "NIM_SERVED_MODEL_NAME": "acme/my.ranker",
            "RERANK_TOO_LONG_STATUS": "400",
            "NIM_TRITON_MAX_SEQ_LENGTH": "40",
            "NIM_TRITON_MAX_BATCH_SIZE": "2",
        }
    ).ready()
    assert server.get("/v1/models").json()["data"][0]["id"] == "acme/my.ranker"
    two = {**BODY, "passages": BODY["passages"][:2]}
    for name in ("acme/my.ranker", "my_ranker", "nvidia/llama-3.2-nv-rerankqa-1b-v2"):
        assert server.rank({**two, "model": name}).status_code == 200
    assert server.rank(BODY).status_code == 400
    too_long = server.rank({**two, "passages": [{"text": "x" * 40}]})
    assert too_long.status_code == 400
    assert "exceeds maximum allowed token size 40" in too_long.json()["message"]
    assert too_long.json()["type"] == "invalid_request_error"
