"""Traces as a collector gets them: a real one, small, that speaks OTLP over HTTP."""

import itertools
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from checks.ports import free_port
from server import tracing
from server.settings import SettingsError, read_settings
from tests.server.conftest import Start
from tests.server.in_process import in_process
from tests.waiting import PATIENCE_S, wait_until

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
BODY = {"query": {"text": "secret-query"}, "passages": [{"text": "secret-a"}, {"text": "secret-b"}]}
MOCK = {"ENABLE_MOCK_INFERENCE": "1", "NIM_ENABLE_OTEL": "true"}
# In a process of its own, like any collector: it writes every body that it gets to a file.
_COLLECTOR = """
import gzip, http.server, pathlib, sys
class Collector(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        assert self.path == "/v1/traces", self.path
        assert self.headers["content-type"] == "application/x-protobuf"
        number = len(list(pathlib.Path(sys.argv[1]).iterdir()))
        part = pathlib.Path(sys.argv[1], f"{number}.part")
        part.write_bytes(body)
        part.rename(part.with_suffix(".otlp"))
        self.send_response(200); self.send_header("content-length", "0"); self.end_headers()
    def log_message(self, *_): pass
server = http.server.HTTPServer(("127.0.0.1", 0), Collector)
print(server.server_port, flush=True)
server.serve_forever()
"""


class Collector:
    """A running collector."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        command = [sys.executable, "-c", _COLLECTOR, str(folder)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.url = f"http://127.0.0.1:{int(self.process.stdout.readline())}"

    def requests(self) -> list[ExportTraceServiceRequest]:
        files = sorted(self._folder.glob("*.otlp"))
        return [ExportTraceServiceRequest.FromString(file.read_bytes()) for file in files]

    def raw(self) -> bytes:
        return b"".join(file.read_bytes() for file in self._folder.glob("*.otlp"))

    def spans(self) -> list[Any]:
        scopes = [s for r in self.requests() for b in r.resource_spans for s in b.scope_spans]
        return [span for scope in scopes for span in scope.spans]

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture
def collector(tmp_path: Path) -> Iterator[Collector]:
    (tmp_path / "otlp").mkdir()
    running = Collector(tmp_path / "otlp")
    yield running
    running.end()


def facts(span: Any) -> dict[str, Any]:
    return {a.key: a.value.int_value or a.value.string_value for a in span.attributes}


def test_a_request_is_one_span_with_its_stages_below(start: Start, collector: Collector) -> None:
    settings = {
        "NIM_OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "NIM_OTEL_SERVICE_NAME": "rerank-here",
        "OTEL_SERVICE_NAME": "not-this-one",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
        "NIM_OTEL_METRICS_EXPORTER": "console",
        "NIM_JSONL_LOGGING": "1",
    }
    server = start({**MOCK, **settings}).ready()
    headers = {"traceparent": PARENT, "x-request-id": "mine-1", "authorization": "Bearer tok-en"}
    reply = server.rank(BODY, headers=headers)
    assert reply.status_code == 200
    assert reply.headers["x-request-id"] == "mine-1"
    wait_until(lambda: len(collector.spans()) >= 4)
    spans = collector.spans()
    assert [span.name for span in spans] == ["tokenize", "queue", "engine", "POST /v1/ranking"]
    *stages, root = spans
    trace_id, parent_id = PARENT.split("-")[1:3]
    assert root.trace_id.hex() == trace_id
    assert root.parent_span_id.hex() == parent_id
    assert reply.headers["traceresponse"] == f"00-{trace_id}-{root.span_id.hex()}-01"
    for span in stages:
        assert (span.trace_id, span.parent_span_id) == (root.trace_id, root.span_id)
    times = [t for s in stages for t in (s.start_time_unix_nano, s.end_time_unix_nano)]
    rounding = 1_000
    assert all(a <= b + rounding for a, b in itertools.pairwise(times))
    # Its clock is another one, which was read at another time.
    hour = 3_600_000_000_000
    assert root.start_time_unix_nano - hour < times[0]
    assert times[-1] < root.end_time_unix_nano + hour
    attributes = facts(root)
    assert attributes["http.route"] == "/v1/ranking"
    assert attributes["http.response.status_code"] == 200
    assert attributes["rerank.texts"] == 2
    computed = facts(stages[2])
    assert computed["rerank.batch.rows"] >= 1
    assert attributes["rerank.tokens"] >= computed["rerank.batch.tokens"] > 0
    resource = collector.requests()[0].resource_spans[0].resource
    assert facts(resource)["service.name"] == "rerank-here"
    assert server.stop() == 0
    everything = collector.raw() + server.log.encode()
    for secret in (b"secret", b"tok-en"):
        assert secret not in everything
    assert f'"trace_id":"{trace_id}"' in server.log
    assert '"request_id":"mine-1"' in server.log


def test_failures_probes_and_grpc(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "_LAST_FLUSH_S", PATIENCE_S)
    port = free_port()
    given = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.url, "NIM_TRITON_GRPC_PORT": str(port)}
    with in_process({**MOCK, **given}) as server:
        assert server.get("/v1/models").headers.get("traceresponse") is None  # not traced
        reply = server.rank({"query": {"text": " "}, "passages": [{"text": "p"}]})
        assert reply.headers["traceresponse"].startswith("00-")
        client = tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{port}")
        sent = []
        for name in ("query", "passage"):
            tensor = tritonclient.grpc.InferInput(name, [1, 1], "BYTES")
            sent.append(tensor.set_data_from_numpy(np.asarray([[b"secret"]], object)))
        client.infer("llama_nemotron_rerank_1b_v2", sent, headers={"traceparent": PARENT})
        client.close()
    # What is left is sent before the server ends.
    spans = {span.name: span for span in collector.spans()}
    assert len(spans) == 5
    refused = spans["POST /v1/ranking"]
    assert facts(refused)["http.response.status_code"] == 400
    assert refused.status.code == 0  # the caller's mistake is no error of the server's
    called = spans["inference.GRPCInferenceService/ModelInfer"]
    assert called.trace_id.hex() == PARENT.split("-")[1]
    assert {"tokenize", "queue", "engine"} <= set(spans)
    assert b"secret" not in collector.raw()


def test_a_collector_that_is_not_there_stops_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(tracing, "_LAST_FLUSH_S", 0.0)
    with socket.socket() as nobody:  # listens
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        with in_process({**MOCK, "OTEL_EXPORTER_OTLP_ENDPOINT": url}) as server:
            assert server.rank(BODY).status_code == 200
    assert "Traceback" not in caplog.text


def test_off_means_that_nothing_is_imported() -> None:
    code = (
        "import sys; from server.app import create_app; from server.settings import Settings;"
        "create_app(Settings(mock=True)); print(' '.join(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    # Litestar itself looks for names in OpenTelemetry's smallest package.
    assert not [name for name in done.stdout.split() if name.startswith("opentelemetry.sdk")]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("OTEL_TRACES_EXPORTER", "zipkin"),
        ("NIM_OTEL_EXPORTER_OTLP_PROTOCOL", "grpc"),
        ("NIM_OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4317"),
        ("NIM_ENABLE_OTEL", "perhaps"),
    ],
)
def test_a_wrong_value_stops_the_start(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"^{name}: found "):
        read_settings({**MOCK, name: value})
    if name != "NIM_ENABLE_OTEL":  # without tracing nobody reads it
        assert read_settings({"ENABLE_MOCK_INFERENCE": "1", name: value}).otel == {}
