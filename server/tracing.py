"""Tracing: one span for each request to a model, with a child span for each stage of its Timing.

OpenTelemetry's SDK is imported only with NIM_ENABLE_OTEL, and sends OTLP over HTTP. Its variables
are OTEL_*; NIM_OTEL_* are the same with a prefix. A span never contains a text, a header or a key.
W3C trace context (traceparent, tracestate) is taken from the caller; the answer has the span in
`traceresponse`, as in level 2 of that standard.
"""

import os
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from runtime.postprocess import Embeddings, Ranking, Timing
from server.settings import Settings, SettingsError

_SERVICE_NAME = "open-rerank"
# How long a stopping process waits for a collector that does not answer.
_LAST_FLUSH_S = 2.0
_CONTEXT = ("traceparent", "tracestate")

Facts = Mapping[str, str | int]


class Trace:
    """The span of one request, from `begin` to `end`."""

    def __init__(self, tracer: Any, span: Any, child_of: Any) -> None:
        self._tracer = tracer
        self._span = span
        self._child_of = child_of
        context = span.get_span_context()
        self.trace_id = format(context.trace_id, "032x")
        flags = format(int(context.trace_flags), "02x")
        self.traceresponse = f"00-{self.trace_id}-{context.span_id:016x}-{flags}"

    def end(
        self,
        name: str,
        facts: Facts,
        answers: Sequence[Ranking | Embeddings],
        *,
        failed: bool = False,
    ) -> None:
        """End the span under its final name, with the stages of all answers as child spans."""
        from opentelemetry.trace import StatusCode

        # Timings use the monotonic clock, spans use wall clock time.
        shift_ns = time.time_ns() - time.monotonic_ns()
        for stage, began_s, ended_s, more in _stages([answer.timing for answer in answers]):
            child = self._tracer.start_span(
                stage,
                context=self._child_of,
                start_time=int(began_s * 1e9) + shift_ns,
                attributes=more,
            )
            child.end(int(ended_s * 1e9) + shift_ns)
        self._span.update_name(name)
        self._span.set_attributes({**facts, **_counts(answers)})
        if failed:
            self._span.set_status(StatusCode.ERROR)
        self._span.end()


class Tracing:
    """The process's tracer; its `provider` sends through `exporter`."""

    def __init__(self, provider: Any, exporter: Any) -> None:
        self._provider = provider
        self._exporter = exporter
        self._tracer = provider.get_tracer(_SERVICE_NAME)

    def begin(self, name: str, headers: Mapping[str, str], facts: Facts) -> Trace:
        """Begin a request's span; of `headers`, only the trace context is read."""
        from opentelemetry.trace import SpanKind, set_span_in_context
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        carrier = {key: headers[key] for key in _CONTEXT if key in headers}
        outer = TraceContextTextMapPropagator().extract(carrier)
        span = self._tracer.start_span(
            name, context=outer, kind=SpanKind.SERVER, attributes=dict(facts)
        )
        return Trace(self._tracer, span, set_span_in_context(span, outer))

    def close(self) -> None:
        """Flush the spans, if the collector accepts them in time."""
        # The SDK's own shutdown retries for longer than an orchestrator waits.
        patience = threading.Timer(_LAST_FLUSH_S, self._exporter.shutdown)
        patience.start()
        self._provider.shutdown()
        patience.cancel()


def open_tracing(settings: Settings) -> Tracing | None:
    """Set up tracing as in the settings; None if it is off.

    Raises SettingsError when OpenTelemetry is not installed or cannot read its variables.
    """
    kind = settings.otel.get("OTEL_TRACES_EXPORTER", "otlp")
    if not settings.tracing or kind == "none":
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor, ConsoleSpanExporter
    except ImportError as error:
        raise SettingsError(
            "NIM_ENABLE_OTEL", f"no package {error.name}", "the extra serve-cpu or serve-gpu"
        ) from error
    with _variables({"OTEL_SERVICE_NAME": _SERVICE_NAME, **settings.otel}):
        try:
            exporter = ConsoleSpanExporter() if kind == "console" else OTLPSpanExporter()
            provider = TracerProvider(resource=Resource.create(), shutdown_on_exit=False)
            provider.add_span_processor(BatchSpanProcessor(exporter))
        except ValueError as error:
            raise SettingsError("NIM_ENABLE_OTEL", f"OTEL_* values ({error})", "others") from error
    return Tracing(provider, exporter)


@contextmanager
def _variables(given: Mapping[str, str]) -> Iterator[None]:
    """Set environment variables for the block: the SDK reads its settings only from there."""
    before = {name: os.environ[name] for name in given if name in os.environ}
    os.environ.update(given)
    try:
        yield
    finally:
        for name in given:
            del os.environ[name]
        os.environ.update(before)


def _stages(timings: Sequence[Timing]) -> Iterator[tuple[str, float, float, dict[str, int]]]:
    """Name, start and end in seconds of time.monotonic(), and attributes of every stage."""
    for timing in timings:
        began = timing.began + timing.image_ms / 1e3
        if timing.image_ms:
            yield "image", timing.began, began, {}
        tokenized = began + timing.tokenize_ms / 1e3
        yield "tokenize", began, tokenized, {}
        yield "queue", tokenized, tokenized + timing.queue_ms / 1e3, {}
    # Answers of one request may share engine calls.
    for call in dict.fromkeys(call for timing in timings for call in timing.calls):
        facts = {
            "rerank.batch.rows": call.rows,
            "rerank.batch.tokens": call.real_tokens,
            "rerank.batch.computed_tokens": call.computed_tokens,
        }
        yield "engine", call.began, call.ended, facts


def _counts(answers: Sequence[Ranking | Embeddings]) -> dict[str, int]:
    if not answers:
        return {}
    return {
        "rerank.texts": sum(len(answer.token_counts) for answer in answers),
        "rerank.tokens": sum(int(answer.token_counts.sum()) for answer in answers),
        "rerank.truncated_texts": sum(answer.truncated for answer in answers),
    }
