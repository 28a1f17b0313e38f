"""Requests that are told to come again are counted, each by what kept it."""

import socket
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import numpy as np
import pytest
import tritonclient.grpc
from tritonclient.utils import InferenceServerException

from checks.ports import free_port
from runtime import errors
from runtime.engines.mock import MockEngine
from runtime.throughput import Throughput
from server.metrics import Metrics
from server.metrics import refusals as reasons
from tests.server.conftest import HELD, Server
from tests.server.figures import figures, outcomes, refusals, sums, values
from tests.server.gate import GATED_TOKENS, Gate
from tests.server.in_process import Serve
from tests.server.test_engine_faults import body
from tests.waiting import PATIENCE_S

MOCK = {"ENABLE_MOCK_INFERENCE": "1"}
ONE_ROW_A_CALL = {"NIM_TRITON_MAX_BATCH_SIZE": "1", "RERANK_MAX_PASSAGES": "64"}


def family(kind: type[Exception]) -> list[type[Exception]]:
    return [kind, *(one for below in kind.__subclasses__() for one in family(below))]


def test_every_error_that_says_come_again_has_a_reason() -> None:
    metrics = Metrics(lambda: ())
    classes = family(errors.Unavailable)
    for kind in classes:
        metrics.count_refusal(kind.__new__(kind))
    metrics.count_refusal(errors.InputTooLong(3, 2))
    metrics.count_refusal(errors.EngineThreadEnded())
    found = values(metrics.render().decode())
    counted = {s: v for s, v in found.items() if s.startswith("rerank_refusals_total")}
    assert sum(counted.values()) == len(classes)
    assert counted['rerank_refusals_total{reason="other"}'] == 1  # Unavailable itself
    assert set(counted.values()) == {1.0}
    assert len(counted) == len(reasons())


def refused_over_grpc(port: int, rows: int) -> tuple[str, str]:
    """Status and message of a request of so many rows."""
    passages = [passage["text"] for passage in body(*[GATED_TOKENS] * rows)["passages"]]
    tensors = []
    for name, texts in (("query", ["q"]), ("passage", passages)):
        tensor = tritonclient.grpc.InferInput(name, [len(texts), 1], "BYTES")
        tensors.append(tensor.set_data_from_numpy(np.array([[t.encode()] for t in texts], object)))
    with (
        tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{port}") as client,
        pytest.raises(InferenceServerException) as refused,
    ):
        client.infer("llama_3_2_nv_rerankqa_1b_v2", tensors)
    return refused.value.status(), refused.value.message()


def test_a_full_queue_refuses_at_once(serve: Serve, gate: Gate) -> None:
    port = free_port()
    given = {"NIM_MAX_QUEUE_SIZE": "40", "NIM_TRITON_GRPC_PORT": str(port)}
    server = serve({**HELD, **ONE_ROW_A_CALL, **given})
    assert refusals(server) == {}
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(server.rank, body(*[GATED_TOKENS] * 64))
        gate.wait_for_call()
        refused = server.rank(body(*[GATED_TOKENS] * 64))
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        # nv-ingest asks again when it finds these words in this status.
        status, message = refused_over_grpc(port, rows=64)
        assert status == "StatusCode.UNAVAILABLE"
        assert "Exceeds maximum queue size" in message
        gate.open()
        assert first.result().status_code == 200
    assert refusals(server) == {"full": 2}
    found = figures(server)
    assert outcomes(found) == {"answered": 1, "failed": 0, "cancelled": 0, "refused": 2}
    assert sums(found) == (3, 3)


def test_what_cannot_be_in_time_is_refused_before_it_is_begun(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    def known(_: Throughput, tokens: int, now: float, *, busy: bool) -> float:
        return tokens * 0.1

    monkeypatch.setattr(Throughput, "predicted_s", known)
    port = free_port()
    given = {"RERANK_OVERLOAD_STATUS": "429", "NIM_TRITON_GRPC_PORT": str(port)}
    server = serve({**MOCK, **ONE_ROW_A_CALL, **given, "NIM_REQUEST_TIMEOUT_S": "300"})
    late = server.rank(body(*[GATED_TOKENS] * 64))
    assert late.status_code == 429
    assert "longer than the request" in late.json()["message"]
    status, message = refused_over_grpc(port, rows=64)
    assert status == "StatusCode.RESOURCE_EXHAUSTED"
    assert "longer than the request" in message
    assert refusals(server) == {"deadline": 2}
    assert server.rank(body(GATED_TOKENS)).status_code == 200
    found = figures(server)
    assert outcomes(found) == {"answered": 1, "failed": 0, "cancelled": 0, "refused": 2}
    assert sums(found) == (3, 3)


def test_an_engine_that_is_unreachable_or_has_no_memory(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    compute = MockEngine.run

    def fail(self: MockEngine, inputs: Any) -> Any:
        longest = inputs["input_ids"].shape[1]
        if longest > 100:
            raise errors.OutOfMemory if longest > 150 else errors.EngineUnreachable
        return compute(self, inputs)

    monkeypatch.setattr(MockEngine, "run", fail)
    server = serve(MOCK)
    assert server.rank(body(50)).status_code == 200
    assert server.rank(body(120)).status_code == 503
    assert server.rank(body(180)).status_code == 503
    assert refusals(server) == {"engine_away": 1, "out_of_memory": 1}
    found = figures(server)
    backend = [v for s, v in found.items() if "request_failure" in s and '"BACKEND"' in s]
    assert sorted(backend) == [0.0, 2.0]  # the embedder's and the reranker's
    assert outcomes(found)["failed"] == 2


def test_the_second_ports_are_observed_as_the_first(mock_server: Server) -> None:
    """Logged, counted and named like every request."""
    url = f"http://127.0.0.1:{mock_server.triton_port}"
    counted = (
        'request_count_total{route="/v2/models/{model}/infer",status="404"}',
        'request_count_total{route="other",status="405"}',
    )
    before = figures(mock_server)
    path = "/v2/models/nothing/infer"
    headers = {"x-request-id": "second-port"}
    answer = httpx.post(f"{url}{path}", json={}, headers=headers, timeout=PATIENCE_S)
    assert answer.status_code == 404
    assert answer.headers["x-request-id"] == "second-port"
    metrics = httpx.post(f"{mock_server.metrics_url}/metrics", timeout=PATIENCE_S)
    assert metrics.status_code == 405
    found = figures(mock_server)
    assert [found[sample] - before.get(sample, 0) for sample in counted] == [1, 1]
    mock_server.wait_until(lambda: "request_id=second-port" in mock_server.log)
    (line,) = (line for line in mock_server.log.splitlines() if "request_id=second-port" in line)
    assert "POST /v2/models/{model}/infer 404" in line
    with socket.create_connection(("127.0.0.1", mock_server.triton_port)) as raw:
        raw.sendall(b"GET /secret-path HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        while raw.recv(4096):
            pass
    mock_server.wait_until(lambda: "GET other 404" in mock_server.log)
    assert "secret-path" not in mock_server.log
