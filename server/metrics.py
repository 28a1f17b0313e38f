"""Prometheus metrics under the names that NIM 1.10.0 (/v1/metrics) and its Triton (:8002) use."""

from collections.abc import Callable, Iterator

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

from runtime.model import Ranker

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OTHER_ROUTE = "other"

_LATENCY_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)


class Metrics:
    """The counters of one server process; `rankings_*` count what the model was asked."""

    def __init__(self, ranker: Callable[[], Ranker | None]) -> None:
        # Gauges of start times, which NIM's list does not have.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.rankings_answered = 0
        self.rankings_failed = 0
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
        self._registry.register(_InferenceCounters(self, ranker))

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

    def __init__(self, metrics: Metrics, ranker: Callable[[], Ranker | None]) -> None:
        self._metrics = metrics
        self._ranker = ranker

    def collect(self) -> Iterator[UntypedMetricFamily]:
        ranker = self._ranker()
        if ranker is None:
            return
        stats = ranker.stats()
        labels = {"model": ranker.info.model_id, "version": ranker.info.version}
        for name, text, value in (
            ("request_success", "Ranking requests scored", self._metrics.rankings_answered),
            ("request_failure", "Ranking requests not scored", self._metrics.rankings_failed),
            ("count", "Passages scored", stats.inference_count),
            ("exec_count", "Engine calls", stats.execution_count),
            ("queue_duration_us", "Passages' time in the queue", stats.queue_s * 1e6),
            ("compute_infer_duration_us", "Time in the engine", stats.engine_s * 1e6),
            ("pending_request_count", "Passages that wait", ranker.queue_depth()[0]),
        ):
            family = UntypedMetricFamily(f"nv_inference_{name}", text, labels=list(labels))
            family.add_metric(list(labels.values()), float(value))
            yield family
