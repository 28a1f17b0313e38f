"""Requests that are told to come again are counted, each by what kept it."""

import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import numpy as np
import pytest
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from checks.ports import free_port
from runtime import errors
from server.metrics import REFUSALS, Metrics
from tests.server.test_engine_faults import body, pending
from tests.server.test_metrics import outcomes, sums, values

Start = Callable[..., Any]

# The mock, whose engine is away at a text of more than 100 bytes, and out of memory above 150.
_FAIL = """
import sys
from runtime.engines.mock import MockEngine
from runtime.errors import EngineAway, OutOfMemory
from server.cli import main

compute = MockEngine.run

def run(self, inputs):
    longest = inputs["input_ids"].shape[1]
    if longest > 100:
        raise OutOfMemory if longest > 150 else EngineAway
    return compute(self, inputs)

MockEngine.run = run
sys.exit(main())
"""


def refusals(server: Any) -> dict[str, float]:
    """Reason → requests, without those that have none."""
    found = values(server.get("/v1/metrics").text)
    counted = {reason: found[f'rerank_refusals_total{{reason="{reason}"}}'] for reason in reasons()}
    return {reason: count for reason, count in counted.items() if count}


def reasons() -> Iterator[str]:
    return iter(REFUSALS.values())


def family(kind: type[Exception]) -> Iterator[type[Exception]]:
    yield kind
    for below in kind.__subclasses__():
        yield from family(below)


def test_every_error_that_says_come_again_has_a_reason() -> None:
    metrics = Metrics(lambda: ())
    classes = list(family(errors.Unavailable))
    for kind in classes:
        metrics.count_refusal(kind.__new__(kind))
    metrics.count_refusal(errors.InputTooLong(3, 2))
    metrics.count_refusal(errors.EngineLost())
    found = values(metrics.render().decode())
    counted = {s: v for s, v in found.items() if s.startswith("rerank_refusals_total")}
    assert sum(counted.values()) == len(classes)
    assert counted['rerank_refusals_total{reason="other"}'] == 1  # Unavailable itself
    assert set(counted.values()) == {1.0}
    assert len(counted) == len(set(reasons()))


def test_full_queues_and_passed_deadlines(start: Start, slow_directory: Path) -> None:
    server = start(
        {
            "NIM_CUSTOM_MODEL": str(slow_directory),
            "NIM_TRITON_MAX_BATCH_SIZE": "1",
            "RERANK_MAX_PASSAGES": "64",
            "NIM_MAX_QUEUE_SIZE": "40",
            "NIM_REQUEST_TIMEOUT_S": "1",
        }
    ).ready()
    assert refusals(server) == {}
    url = server.url + "/v1/ranking"
    statuses = []

    def ask() -> None:
        statuses.append(httpx.post(url, json=body(*[50] * 64), timeout=20).status_code)

    first = threading.Thread(target=ask)
    first.start()
    while pending(server) == 0:
        assert first.is_alive()
    assert httpx.post(url, json=body(*[50] * 64)).status_code == 503
    with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
        rows = tensors([f"{n:050}" for n in range(64)])
        # nv-ingest asks again when it finds these words in this status.
        with pytest.raises(InferenceServerException, match="Exceeds maximum queue size") as full:
            client.infer("llama_3_2_nv_rerankqa_1b_v2", rows)
        assert full.value.status() == "StatusCode.UNAVAILABLE"
    first.join()
    assert statuses == [504]
    assert refusals(server) == {"full": 2, "expired": 1}
    # Now the speed is known: what cannot be in time is refused before it is begun.
    assert httpx.post(url, json=body(*[50] * 64), timeout=20).status_code == 503
    assert refusals(server) == {"full": 2, "expired": 1, "deadline": 1}
    with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
        with pytest.raises(InferenceServerException, match="longer than the request") as late:
            client.infer("llama_3_2_nv_rerankqa_1b_v2", rows)
        assert late.value.status() == "StatusCode.RESOURCE_EXHAUSTED"
    assert refusals(server) == {"full": 2, "expired": 1, "deadline": 2}
    found = values(server.get("/v1/metrics").text)
    assert outcomes(found) == {"answered": 0, "failed": 1, "cancelled": 0, "refused": 4}
    received, counted = sums(found)
    assert received == counted == 5


def tensors(texts: list[str]) -> list[Any]:
    made = []
    for name, found in (("query", ["q"]), ("passage", texts)):
        tensor = tritonclient.grpc.InferInput(name, [len(found), 1], "BYTES")
        tensor.set_data_from_numpy(np.array([[t.encode()] for t in found], dtype=np.object_))
        made.append(tensor)
    return made


def test_an_engine_that_is_away_or_has_no_memory(start: Start) -> None:
    server = start({"ENABLE_MOCK_INFERENCE": "1"}, "-c", _FAIL).ready()
    assert server.rank(body(50)).status_code == 200
    assert server.rank(body(120)).status_code == 503
    assert server.rank(body(180)).status_code == 503
    assert refusals(server) == {"engine_away": 1, "out_of_memory": 1}
    found = values(server.get("/v1/metrics").text)
    backend = [v for s, v in found.items() if "request_failure" in s and '"BACKEND"' in s]
    assert sorted(backend) == [0.0, 2.0]  # the embedder's and the reranker's
    assert outcomes(found)["failed"] == 2


def test_requests_before_ready(start: Start, slow_directory: Path) -> None:
    server = start({"NIM_CUSTOM_MODEL": str(slow_directory)}, "-c", _SLOW_START)
    server.wait_for("/v1/health/live", 200)
    assert server.rank(body(50)).status_code == 503
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        index = channel.unary_unary("/inference.GRPCInferenceService/RepositoryIndex")
        with pytest.raises(grpc.RpcError, match="not ready"):
            index(b"")
    assert refusals(server) == {"not_ready": 2}


# A server whose model never finishes loading.
_SLOW_START = """
import sys, time
import server.service
from server.cli import main

def never(*_, **__):
    time.sleep(3600)

server.service._open = never
sys.exit(main())
"""


def test_the_second_ports_are_observed_as_the_first(start: Start) -> None:
    """Logged, counted and named like every request."""
    port = free_port()
    server = start({"ENABLE_MOCK_INFERENCE": "1", "NIM_HTTP_TRITON_PORT": str(port)}).ready()
    path = "/v2/models/nothing/infer"
    answer = httpx.post(f"http://127.0.0.1:{port}{path}", json={}, headers={"x-request-id": "mine"})
    assert answer.status_code == 404
    assert answer.headers["x-request-id"] == "mine"
    assert httpx.post(f"{server.metrics_url}/metrics").status_code == 405
    found = values(server.get("/v1/metrics").text)
    assert found['request_count_total{route="/v2/models/{model}/infer",status="404"}'] == 1
    assert found['request_count_total{route="other",status="405"}'] == 1
    assert "POST /v2/models/{model}/infer 404" in server.log
    assert "request_id=mine" in server.log
    with socket.create_connection(("127.0.0.1", port)) as raw:
        raw.sendall(b"GET /secret-path HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        while raw.recv(4096):
            pass
    assert "GET other 404" in server.log
    assert "secret-path" not in server.log
    assert server.stop() == 0
