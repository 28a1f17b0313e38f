"""Prometheus metrics under the names that NIM 1.10.0 (/v1/metrics) and its Triton (:8002) use."""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import UntypedMetricFamily
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from server.service import Served

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OTHER_ROUTE = "other"

_TEXTS = {
    "request_success": "Requests answered",
    "request_failure": "Requests not answered",
    "count": "Rows computed",
    "exec_count": "Engine calls",
    "queue_duration_us": "Rows' time in the queue",
    "compute_input_duration_us": "Time between waiting rows and their engine call",
    "compute_infer_duration_us": "Time in the engine",
    "compute_output_duration_us": "Time from an engine call's end to its answers",
    "pending_request_count": "Rows that wait",
}
_LATENCY_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """The counters of one server process; `served` gives the loaded models."""

    def __init__(self, served: "Callable[[], Iterable[Served]]") -> None:
        # Gauges of start times, which NIM's list does not have.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        for collector in (GCCollector, PlatformCollector, ProcessCollector):
            collector(registry=self._registry)
        self._requests = Counter(
            "request_count", "App Request Count", ["route", "status"], registry=self._registry
        )
        self._latency = Histogram(
            "request_latency_seconds",
            "Seconds from a request's arrival to the end of its answer",
            ["route"],
            buckets=_LATENCY_BUCKETS_S,
            registry=self._registry,
        )
        self._registry.register(_InferenceCounters(served))

    def observe(self, route: str, status: int, seconds: float) -> None:
        """Count one answered request; `route` is a route's template or OTHER_ROUTE."""
        self._requests.labels(route, str(status)).inc()
        self._latency.labels(route).observe(seconds)

    def render(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self._registry)


class _InferenceCounters(Collector):
    """Triton's names, read from the scheduler when they are asked for.

    They are untyped because the client library would append _total to a counter's name.
    """

    def __init__(self, served: "Callable[[], Iterable[Served]]") -> None:
        self._served = served

    def collect(self) -> Iterator[UntypedMetricFamily]:
        families = {
            name: UntypedMetricFamily(f"nv_inference_{name}", text, labels=["model", "version"])
            for name, text in _TEXTS.items()
        }
        for served in list(self._served()):
            info = served.model.info
            for name, value in _values(served).items():
                families[name].add_metric([info.model_id, info.version], float(value))
        yield from (family for family in families.values() if family.samples)


def _values(served: "Served") -> dict[str, float]:
    stats, tally = served.model.stats(), served.tally
    return {
        "request_success": tally.answered,
        "request_failure": tally.failed,
        "count": stats.inference_count,
        "exec_count": stats.execution_count,
        "queue_duration_us": stats.queue_s * 1e6,
        "compute_input_duration_us": stats.layout_s * 1e6,
        "compute_infer_duration_us": stats.engine_s * 1e6,
        "compute_output_duration_us": stats.answer_s * 1e6,
        "pending_request_count": served.model.queue_depth()[0],
    }
