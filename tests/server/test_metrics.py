"""Prometheus metrics: NIM's and Triton's names, bounded labels, on both ports."""

import re
from typing import Any

import httpx
import pytest

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
    "nv_inference_queue_duration_us",
    "nv_inference_compute_input_duration_us",
    "nv_inference_compute_infer_duration_us",
    "nv_inference_compute_output_duration_us",
    "nv_inference_pending_request_count",
)


def values(text: str) -> dict[str, float]:
    """Sample → value, the labels being part of the sample."""
    lines = (line.rpartition(" ") for line in text.splitlines() if not line.startswith("#"))
    return {sample: float(value) for sample, _, value in lines}


def total(found: dict[str, float], prefix: str) -> float:
    return sum(value for sample, value in found.items() if sample.startswith(prefix))


@pytest.mark.parametrize("port", ["api", "metrics"])
def test_names_and_content_type(mock_server: Any, client: httpx.Client, port: str) -> None:
    api = port == "api"
    url = mock_server.url + "/v1/metrics" if api else mock_server.metrics_url + "/metrics"
    client.get("/v1/models")
    response = httpx.get(url)
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain; version=0.0.4")
    found = {re.split(r"[{ ]", sample)[0] for sample in values(response.text)}
    assert found >= set(NAMES)


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
    client.post("/score", json={**body, "text_2": ["a", "b", " "]})
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
