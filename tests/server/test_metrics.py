"""Prometheus metrics: NIM's and Triton's names, bounded labels, on both ports."""

import json
import math
import re
import socket
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from server import reloading
from server.metrics import Metrics, families
from tests.server.conftest import MAX_TOKENS, Server, StartGated
from tests.server.figures import figures, outcomes, pending, sums, total, values
from tests.server.gate import GATED_TOKENS
from tests.server.in_process import Serve
from tests.waiting import PATIENCE_S

NAMES = (
    "python_gc_objects_collected_total",
    "python_gc_objects_uncollectable_total",
    "python_gc_collections_total",
    "python_info",
    "process_virtual_memory_bytes",
    "process_resident_memory_bytes",
    "process_start_time_seconds",
    "process_cpu_seconds_total",
    "process_open_fds",
    "process_max_fds",
    "request_count_total",
    "request_latency_seconds_bucket",
    "nv_inference_request_success",
    "nv_inference_request_failure",
    "nv_inference_count",
    "nv_inference_exec_count",
    "nv_inference_request_duration_us",
    "nv_inference_queue_duration_us",
    "nv_inference_compute_input_duration_us",
    "nv_inference_compute_infer_duration_us",
    "nv_inference_compute_output_duration_us",
    "nv_inference_pending_request_count",
    "nv_cpu_utilization",
    "nv_cpu_memory_total_bytes",
    "nv_cpu_memory_used_bytes",
    "rerank_queue_rows",
    "rerank_queue_tokens",
)


@pytest.mark.parametrize("port", ["api", "metrics"])
def test_names_and_content_type(mock_server: Server, port: str) -> None:
    api = port == "api"
    url = mock_server.url + "/v1/metrics" if api else mock_server.metrics_url + "/metrics"
    mock_server.get("/v1/models")
    response = httpx.get(url, timeout=PATIENCE_S)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = {re.split(r"[{ ]", sample)[0] for sample in values(response.text)}
    assert found >= set(NAMES)


def test_the_documentation_has_every_metric(client: httpx.Client) -> None:
    told = {f.name: f.type for f in text_string_to_metric_families(client.get("/v1/metrics").text)}
    known = {family.name: family.type for family in families()}
    assert {name: told[name] for name in told if told[name] != known.get(name)} == {}


def test_counters_count(client: httpx.Client) -> None:
    before = values(client.get("/v1/metrics").text)
    body = {"query": {"text": "q"}, "passages": [{"text": "a"}, {"text": "b"}, {"text": "c"}]}
    for _ in range(2):
        client.post("/v1/ranking", json=body)
    client.post("/v1/ranking", json={**body, "passages": [{"text": "x" * 300}]})
    after = values(client.get("/v1/metrics").text)
    for prefix, more in (
        ("nv_inference_count", 6),
        ("nv_inference_request_success", 2),
        ("nv_inference_request_failure", 1),
        ('request_count_total{route="/v1/ranking",status="200"}', 2),
        ('request_count_total{route="/v1/ranking",status="422"}', 1),
        ('request_latency_seconds_count{route="/v1/ranking"}', 3),
    ):
        assert total(after, prefix) - total(before, prefix) == more, prefix


def test_many_queries_in_one_request_are_one_request(client: httpx.Client) -> None:
    before = values(client.get("/v1/metrics").text)
    body = {"text_1": ["q", "r", "s"], "text_2": ["a", "b", "c"]}
    client.post("/score", json=body)
    client.post("/score", json={**body, "text_2": ["a", "b", "x" * 300]})
    after = values(client.get("/v1/metrics").text)
    for name, more in (("request_success", 1), ("request_failure", 1)):
        prefix = f"nv_inference_{name}"
        assert total(after, prefix) - total(before, prefix) == more, name


def test_callers_cannot_make_labels(client: httpx.Client) -> None:
    for index in range(20):
        client.get(f"/made/up/{index}")
        client.post(f"/v1/retrieval/acme/model-{index}/reranking", json={})
    found = values(client.get("/v1/metrics").text)
    counts = [sample for sample in found if sample.startswith("request_count_total")]
    assert any('route="other"' in sample for sample in counts)
    assert any('route="/v1/retrieval/{org}/{model}/reranking"' in sample for sample in counts)
    assert not any("made" in sample or "acme" in sample for sample in counts)


@contextmanager
def hanging_up(port: int, body: object) -> Iterator[None]:
    """A whole request, whose caller leaves at the end of the block."""
    sent = json.dumps(body).encode()
    with socket.create_connection(("127.0.0.1", port), PATIENCE_S) as raw:
        head = f"POST /v1/ranking HTTP/1.1\r\nHost: a\r\nContent-Length: {len(sent)}\r\n\r\n"
        raw.sendall(head.encode() + sent)
        yield


def test_the_counters_add_up_under_load(start_gated: StartGated) -> None:
    """Accepted = answered + failed + cancelled, with callers that leave, err and come too many."""
    given = {"NIM_TRITON_MAX_BATCH_SIZE": "4", "NIM_MAX_QUEUE_SIZE": "6"}
    server = start_gated(given).ready()
    body = {
        "query": {"text": "q"},
        "passages": [{"text": "a" * (GATED_TOKENS + n)} for n in range(4)],
    }

    def ask(number: int) -> int:
        if number % 5 == 4:
            with hanging_up(server.port, body):
                return 499
        sent = body if number % 5 else {**body, "passages": [{"text": " "}]}
        return server.rank(sent).status_code

    with ThreadPoolExecutor(16) as pool:
        asked = [pool.submit(ask, 1)]
        server.gate.wait_for_call()
        assert pending(server) == 0  # all of its rows are in that call
        with hanging_up(server.port, body):
            server.wait_until(lambda: pending(server) == 1)
        server.wait_until(lambda: outcomes(figures(server))["cancelled"] == 1)
        asked.append(pool.submit(ask, 1))
        server.wait_until(lambda: pending(server) == 1)
        assert (ask(1), ask(0)) == (503, 400)
        asked += [pool.submit(ask, number) for number in range(60)]
        server.gate.open()
        while not all(one.done() for one in asked):
            received, counted = sums(figures(server))
            assert received == counted
    statuses = Counter([503, 400, *(one.result() for one in asked)])
    assert set(statuses) == {200, 400, 499, 503}
    server.wait_until(lambda: figures(server)['rerank_requests_in_flight{kind="rank"}'] == 0)
    found = figures(server)
    ended = outcomes(found)
    received, _ = sums(found)
    accepted = received - ended["refused"]
    assert accepted == ended["answered"] + ended["failed"] + ended["cancelled"]
    assert ended["failed"] == statuses[400]
    # One who leaves may have been answered or refused before that is seen.
    assert 0 <= ended["answered"] - statuses[200] <= statuses[499]
    assert 0 <= ended["refused"] - statuses[503] <= statuses[499]
    queued = total(found, 'rerank_stage_seconds_count{kind="rank",stage="queue"}')
    assert queued == ended["answered"]
    assert found['rerank_texts_total{kind="rank"}'] == 4 * ended["answered"]
    assert found['rerank_server_faults_total{protocol="http"}'] == 0


def test_cut_texts_tokens_and_padding_are_counted(client: httpx.Client) -> None:
    before = values(client.get("/v1/metrics").text)
    texts = [{"text": "x" * 300}, {"text": "abc"}]
    client.post("/v1/ranking", json={"query": {"text": "q"}, "passages": texts, "truncate": "END"})
    after = values(client.get("/v1/metrics").text)

    def more(sample: str) -> float:
        return after[sample] - before.get(sample, 0.0)

    assert more('rerank_truncated_texts_total{kind="rank"}') == 1
    tokens = more('rerank_tokens_total{kind="rank"}')
    assert tokens == more('rerank_engine_tokens_total{kind="rank",padding="false"}') > MAX_TOKENS
    calls = more('rerank_batch_rows_count{kind="rank"}')
    assert calls == more('rerank_batch_tokens_count{kind="rank"}') >= 1
    assert calls == more('rerank_batch_padding_ratio_count{kind="rank"}')


def test_reloads_are_counted(
    serve: Serve, bare_directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reloading, "_RETIRE_DELAY_S", 0.0)
    server = serve({"NIM_CUSTOM_MODEL": str(bare_directory), "RERANK_MODEL_CONTROL": "true"})
    index = server.http.post("/v2/repository/index").json()
    load = f"/v2/repository/models/{index[0]['name']}/load"

    def counted() -> tuple[float, float]:
        found = figures(server)
        done, failed = (
            found[f'rerank_reloads_total{{kind="rank",result="{result}"}}']
            for result in ("done", "failed")
        )
        return done, failed

    assert counted() == (0, 0)
    for _ in range(2):
        assert server.http.post(load).status_code == 200
    (bare_directory / "model.onnx").write_bytes(b"no graph")
    assert server.http.post(load).status_code == 400
    assert counted() == (2, 1)


def test_faults_of_the_server_are_counted_from_0() -> None:
    metrics = Metrics(lambda: ())

    def faults() -> tuple[float, float]:
        found = values(metrics.render().decode())
        http, grpc = (
            found[f'rerank_server_faults_total{{protocol="{name}"}}'] for name in ("http", "grpc")
        )
        return http, grpc

    assert faults() == (0, 0)
    for status in (200, 404, 422, 424, 429, 499, 503, 504):
        metrics.observe("/v1/ranking", status, 0.1)
    for code in ("OK", "INVALID_ARGUMENT", "UNAVAILABLE", "CANCELLED", "DEADLINE_EXCEEDED"):
        metrics.observe("grpc ModelInfer", code, 0.1)
    assert faults() == (0, 0)
    metrics.observe("/v1/ranking", 500, 0.1)
    metrics.observe("/v1/ranking", 500, 0.1)
    metrics.observe("grpc ModelInfer", "INTERNAL", 0.1)
    assert faults() == (2, 1)


def test_prometheus_own_parser_reads_the_page(client: httpx.Client) -> None:
    text = client.get("/v1/metrics").text
    families = {family.name: family for family in text_string_to_metric_families(text)}
    assert families["rerank_stage_seconds"].type == "histogram"
    assert families["rerank_requests"].type == "counter"
    assert families["nv_inference_request_duration_us"].type == "unknown"
    for family in families.values():
        found = [(sample.name, tuple(sorted(sample.labels.items()))) for sample in family.samples]
        assert len(found) == len(set(found)), family.name
        assert all(math.isfinite(sample.value) for sample in family.samples)
