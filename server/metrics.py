"""Prometheus metrics: the names of NIM 1.10.0 (/v1/metrics), of its Triton (:8002), and our own.

Labels are bounded: routes are templates, statuses and outcomes are constants, models are the served
ones. The models' own counters are read when metrics are collected.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import product
from typing import get_args

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
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
    UntypedMetricFamily,
)
from prometheus_client.registry import Collector

from runtime.errors import ServingError
from runtime.postprocess import EngineCall, Timing
from runtime.profile import Kind
from server.errors import class_of
from server.hardware import Gpu, Gpus, Processors, memory_bytes
from server.names import TRITON_VERSION, triton_name
from server.served import Served
from server.tally import OUTCOMES

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OTHER_ROUTE = "other"

_TRITON = {
    "request_success": "Requests answered",
    "count": "Rows computed",
    "exec_count": "Engine calls",
    "request_duration_us": "Requests' time from the model's call to its answer",
    "queue_duration_us": "Requests' time in the queue",
    "compute_input_duration_us": "Requests' time in the tokenizer",
    "compute_infer_duration_us": "Requests' time in engine calls",
    "compute_output_duration_us": "Requests' time behind the engine; not measured, hence 0",
    "pending_request_count": "Requests that wait for an engine call",
}
# How a metric of a model is read; None for a model that does not have it.
_Read = Callable[[Served], float | None]
# Our own of each model, by kind. Received = the sum over outcomes + in flight, at any moment.
_COUNTERS: Mapping[str, tuple[str, _Read]] = {
    "rerank_requests_received": ("Requests that reached a model", lambda one: one.tally.received),
    "rerank_texts": ("Texts of answered requests", lambda one: one.tally.rows),
    "rerank_truncated_texts": (
        "Texts of answered requests that were cut",
        lambda one: one.tally.truncated,
    ),
    "rerank_tokens": (
        "Tokens of answered requests, repeated rows counted",
        lambda one: one.tally.tokens,
    ),
    "rerank_image_cache_hits": (
        "Images whose embeddings were in the cache",
        lambda one: _of_images(one, "hits"),
    ),
    "rerank_image_cache_misses": (
        "Images that the vision model had to compute",
        lambda one: _of_images(one, "misses"),
    ),
    "rerank_image_tiles": (
        "Tiles of images that the vision model computed",
        lambda one: _of_images(one, "tiles"),
    ),
}
_GAUGES: Mapping[str, tuple[str, _Read]] = {
    "rerank_requests_in_flight": (
        "Requests that reached a model and have not left it",
        lambda one: one.tally.in_flight,
    ),
    "rerank_queue_rows": (
        "Rows that wait for an engine call",
        lambda one: one.model.scheduler.queue_depth()[0],
    ),
    "rerank_queue_tokens": (
        "Tokens that wait for an engine call",
        lambda one: one.model.scheduler.queue_depth()[1],
    ),
    "rerank_image_cache_bytes": (
        "Bytes of image embeddings in the cache",
        lambda one: None if one.model.tower is None else one.model.tower.cache.stats().bytes,
    ),
}
_CPU = {
    "nv_cpu_utilization": "Busy share of the processors, 0 to 1",
    "nv_cpu_memory_total_bytes": "Memory of the machine",
    "nv_cpu_memory_used_bytes": "Memory in use",
}
# Gauges of the GPUs: NIM's name, Triton's, and the fact of Gpu.
GPU_METRICS = (
    ("gpu_power_usage_watts", "nv_gpu_power_usage", "power_usage_watts"),
    ("gpu_power_limit_watts", "nv_gpu_power_limit", "power_limit_watts"),
    ("gpu_total_energy_consumption_joules", "nv_energy_consumption", "total_energy_joules"),
    ("gpu_utilization", "nv_gpu_utilization", "utilization"),
    ("gpu_memory_total_bytes", "nv_gpu_memory_total_bytes", "memory_total_bytes"),
    ("gpu_memory_used_bytes", "nv_gpu_memory_used_bytes", "memory_used_bytes"),
)
# Statuses of the server's own faults; 503 and 504 are what a busy server answers.
_FIRST_FAULT, _NO_FAULTS, _GRPC_FAULT = 500, (503, 504), "INTERNAL"
_LATENCY_BUCKETS_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
_STAGE_BUCKETS_S = (0.0005, 0.001, 0.0025, *_LATENCY_BUCKETS_S)
_ROW_BUCKETS = (1, 2, 4, 8, 16, 32, 64)
_TOKEN_BUCKETS = (64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768)
_SHARE_BUCKETS = (0.0, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)


class Metrics:
    """The counters of one server process; `served` gives the loaded models."""

    def __init__(self, served: Callable[[], Iterable[Served]]) -> None:
        # No *_created gauges, because NIM has none.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry()
        for collector in (GCCollector, PlatformCollector, ProcessCollector):
            collector(registry=self._registry)
        self._requests = self._counter("request_count", "App Request Count", route=(), status=())
        self._latency = self._histogram(
            "request_latency_seconds",
            "Seconds from a request's arrival to the end of its answer",
            _LATENCY_BUCKETS_S,
            "route",
        )
        self._stages = self._histogram(
            "rerank_stage_seconds",
            "Answered requests' seconds with images, in tokenizer and queue, and in engine calls",
            _STAGE_BUCKETS_S,
            "kind",
            "stage",
        )
        self._call_seconds = self._histogram(
            "rerank_engine_call_seconds", "Seconds of one engine call", _STAGE_BUCKETS_S, "kind"
        )
        self._call_rows = self._histogram(
            "rerank_batch_rows", "Rows of one engine call", _ROW_BUCKETS, "kind"
        )
        self._call_tokens = self._histogram(
            "rerank_batch_tokens", "Tokens of one engine call's rows", _TOKEN_BUCKETS, "kind"
        )
        self._padding = self._histogram(
            "rerank_batch_padding_ratio",
            "Share of padding among the tokens of one engine call",
            _SHARE_BUCKETS,
            "kind",
        )
        self._computed = self._counter(
            "rerank_engine_tokens",
            "Tokens that the engine computed, real ones and padding",
            kind=(),
            padding=(),
        )
        self._refusals = self._counter(
            "rerank_refusals",
            "Requests told to come again (503, 429, 504), over HTTP and gRPC, by what kept them",
            reason=sorted(refusals()),
        )
        self._reloads = self._counter(
            "rerank_reloads",
            "Models opened anew while the server runs: swapped in, or kept as they were",
            kind=get_args(Kind),
            result=("done", "failed"),
        )
        self._faults = self._counter(
            "rerank_server_faults",
            "Requests answered with a fault of the server: HTTP's 5xx but 503 and 504, INTERNAL",
            protocol=("http", "grpc"),
        )
        self._registry.register(_Models(served))
        self._registry.register(_Machine())

    def observe(self, route: str, status: int | str, seconds: float) -> None:
        """Count an answered request. `route` is a route's template or OTHER_ROUTE, `status` an HTTP
        status or the name of a gRPC status."""
        self._requests.labels(route, str(status)).inc()
        self._latency.labels(route).observe(seconds)
        if status == _GRPC_FAULT:
            self._faults.labels("grpc").inc()
        elif isinstance(status, int) and status >= _FIRST_FAULT and status not in _NO_FAULTS:
            self._faults.labels("http").inc()

    def count_refusal(self, error: Exception) -> None:
        """Count an error that asks the caller to retry; ignore others."""
        if reason := class_of(error).refusal:
            self._refusals.labels(reason).inc()

    @contextmanager
    def counting_reload(self, kind: Kind) -> Iterator[None]:
        """Count the block as one reload of the model of `kind`: failed when it raises."""
        try:
            yield
        except BaseException:
            self._reloads.labels(kind, "failed").inc()
            raise
        self._reloads.labels(kind, "done").inc()

    def observe_stages(self, kind: Kind, timing: Timing) -> None:
        """Record the stages of an answered request."""
        images = ("image",) if timing.image_ms else ()
        for stage in (*images, "tokenize", "queue", "engine"):
            self._stages.labels(kind, stage).observe(getattr(timing, f"{stage}_ms") / 1e3)

    def observe_call(self, kind: Kind, call: EngineCall) -> None:
        """Record an engine call; the callback of models, from any thread."""
        self._call_seconds.labels(kind).observe(call.ended - call.began)
        self._call_rows.labels(kind).observe(call.rows)
        self._call_tokens.labels(kind).observe(call.real_tokens)
        padding = call.computed_tokens - call.real_tokens
        self._padding.labels(kind).observe(padding / max(1, call.computed_tokens))
        self._computed.labels(kind, "false").inc(call.real_tokens)
        self._computed.labels(kind, "true").inc(padding)

    def render(self) -> bytes:
        """Everything in Prometheus' text format."""
        return generate_latest(self._registry)

    def _counter(self, name: str, text: str, **labels: Iterable[str]) -> Counter:
        """A counter with these labels; it begins at 0 for all values of theirs that are known here,
        so that a rate sees the first one."""
        counter = Counter(name, text, labels, registry=self._registry)
        for values in product(*labels.values()):
            counter.labels(*values)
        return counter

    def _histogram(
        self, name: str, text: str, buckets: tuple[float, ...], *labels: str
    ) -> Histogram:
        return Histogram(name, text, labels, buckets=buckets, registry=self._registry)


def refusals(kind: type[ServingError] = ServingError) -> set[str]:
    """The label `reason` of refusals: those of `kind` and of the classes below it."""
    own = {kind.refusal} if kind.refusal else set()
    return own.union(*map(refusals, kind.__subclasses__()))


def families() -> list[Metric]:
    """Every metric that a server can have, with its name, type and text: for the documentation."""
    machine = [GaugeMetricFamily(name, text) for name, text in _CPU.items()]
    gpus = [
        UntypedMetricFamily(name, _of_gpu(fact)) for *names, fact in GPU_METRICS for name in names
    ]
    models = (*_triton([]), *_ours([]))
    every = (*Metrics(lambda: ())._registry.collect(), *models, *machine, *gpus)
    return list({family.name: family for family in every}.values())


class _Models(Collector):
    """The counters of the served models: Triton's names, then our own.

    Triton's are untyped because the client library would append _total to a counter's name.
    """

    def __init__(self, served: Callable[[], Iterable[Served]]) -> None:
        self._served = served

    def collect(self) -> Iterator[Metric]:
        served = list(self._served())
        if not served:
            return
        yield from _triton(served)
        yield from (family for family in _ours(served) if family.samples)


def _triton(served: list[Served]) -> Iterator[Metric]:
    labels = ["model", "version"]
    families = {
        name: UntypedMetricFamily(f"nv_inference_{name}", text, labels=labels)
        for name, text in _TRITON.items()
    }
    failures = UntypedMetricFamily(
        "nv_inference_request_failure", "Requests not answered", labels=[*labels, "reason"]
    )
    for one in served:
        # Triton's labels: the model's name there.
        known = [triton_name(one.name), TRITON_VERSION]
        stats, tally = one.stats(), one.tally
        values = {
            "request_success": tally.answered,
            "count": stats.inference_count,
            "exec_count": stats.execution_count,
            "request_duration_us": tally.answered_s * 1e6,
            "queue_duration_us": tally.queue_s * 1e6,
            "compute_input_duration_us": tally.tokenize_s * 1e6,
            "compute_infer_duration_us": tally.engine_s * 1e6,
            "compute_output_duration_us": 0.0,
            "pending_request_count": one.model.scheduler.pending(),
        }
        for name, value in values.items():
            families[name].add_metric(known, float(value))
        faults = tally.engine_faults
        for reason, count in (
            ("REJECTED", tally.outcomes["refused"]),
            ("CANCELED", tally.outcomes["cancelled"]),
            ("BACKEND", faults),
            ("OTHER", tally.outcomes["failed"] - faults),
        ):
            failures.add_metric([*known, reason], float(count))
    yield from families.values()
    yield failures


def _ours(served: list[Served]) -> Iterator[Metric]:
    outcomes = CounterMetricFamily(
        "rerank_requests",
        "Requests that left a model; accepted are those that were not refused",
        labels=["kind", "outcome"],
    )
    for one in served:
        for outcome in OUTCOMES:
            outcomes.add_metric([one.model.info.kind, outcome], one.tally.outcomes[outcome])
    yield outcomes
    for family_of, metrics in ((CounterMetricFamily, _COUNTERS), (GaugeMetricFamily, _GAUGES)):
        for name, (text, read) in metrics.items():
            family = family_of(name, text, labels=["kind"])
            for one in served:
                if (value := read(one)) is not None:
                    family.add_metric([one.model.info.kind], value)
            yield family


def _of_images(one: Served, name: str) -> float | None:
    """A counter of images; None of a model that takes none."""
    return None if one.model.tower is None else getattr(one.image_stats(), name)


class _Machine(Collector):
    """Processors, memory and GPUs, under the names of Triton and NIM."""

    def __init__(self) -> None:
        self._processors = Processors()
        self._gpus = Gpus()

    def describe(self) -> list[Metric]:
        """Empty, so that the registry does not collect once to learn the names."""
        return []

    def collect(self) -> Iterator[Metric]:
        busy, memory = self._processors.utilization(), memory_bytes()
        total, used = memory or (None, None)
        for (name, text), value in zip(_CPU.items(), (busy, total, used), strict=True):
            if value is not None:
                yield GaugeMetricFamily(name, text, value=value)
        gpus = self._gpus.read()
        for nim, triton, fact in GPU_METRICS:
            yield from _of_gpus(gpus, nim, "device_id", fact)
            yield from _of_gpus(gpus, triton, "gpu_uuid", fact)


def _of_gpus(gpus: list[Gpu], name: str, label: str, fact: str) -> Iterator[Metric]:
    family = UntypedMetricFamily(name, _of_gpu(fact), labels=[label])
    for gpu in gpus:
        if (value := gpu.facts.get(fact)) is not None:
            family.add_metric([getattr(gpu, label)], value)
    if family.samples:
        yield family


def _of_gpu(fact: str) -> str:
    return f"{fact.replace('_', ' ').capitalize()} of a GPU"
