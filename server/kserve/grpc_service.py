"""GRPCInferenceService: the same models and inferences over gRPC, and gRPC's own health service.

nv-ingest's embedding client asks for ModelConfig and then infers; Triton's client library knows
the rest. Errors travel as gRPC statuses with the sentence that HTTP callers get. What HTTP tells in
headers is trailing metadata here (x-truncated-passages, server-timing, retry-after).

A call's message is not read before the call has its key and its place, and not parsed before its
values are counted. Health needs neither key nor place.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager, suppress
from functools import partial
from typing import Any, TypeAlias

import grpc
import grpc.aio

from runtime.errors import Overloaded
from server.addresses import addresses_of, only_at
from server.auth import Keys
from server.call import Call
from server.caller import grpc_caller
from server.descriptors import GRPC_SHARE, most_connections
from server.errors import AuthenticationRequired, classify_error, drop_tracebacks, log_failure
from server.kserve.arrivals import Arrivals, Context
from server.kserve.grpc_health import HEALTH, Health
from server.kserve.grpc_methods import Answer, Methods
from server.kserve.grpc_requests import Requests
from server.kserve.grpc_status import SERVER_FAULTS, UnknownMethod, code_of, status_message
from server.kserve.messages import Messages
from server.logs import current_request
from server.observability import ids_of
from server.service import Service
from server.settings import Settings, SettingsError
from server.tracing import Trace

_log = logging.getLogger(__name__)

# Gives the reply to a call, if it is not a stream, or raises.
Serve: TypeAlias = Callable[[Context, Call], Awaitable[Any]]

_SERVICE = "inference.GRPCInferenceService"
_INFER = "ModelInfer"
_WATCH = "Watch"
# What a method that is not served is called in counts: its name is the caller's own.
_OTHER = "other"
_RETRY = "retry-after"
# Calls at the same time, each with one message of at most NIM_HTTP_BODY_LIMIT_BYTES; and those of
# which gRPC still sends the answer.
_MOST_CALLS = 256
_MOST_UNFINISHED = 4096
# A peer that is silent for a minute is asked whether it is there, and has twenty seconds to say so.
_ASK_MS = 60_000
_PATIENCE_MS = 20_000
# Pings of a caller without calls: more often is abuse, as for Triton; two are forgiven.
_PING_PAUSE_MS = 300_000
_FORGIVEN_PINGS = 2
# A connection ends after an hour, so that one that takes no answers ends too, and clients of a
# Service spread over new replicas. Clients open the next one by themselves.
_OLDEST_MS = 3_600_000
# Asked for without a key and a place, as by probes of a server that is busy. The messages of the
# first two say nothing, and are not awaited.
_SILENT = frozenset({"ServerLive", "ServerReady"})
_OPEN = _SILENT | {"Check", _WATCH}


class GrpcServer:
    """Listens on one port from `start` to `stop`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._keys = Keys(service.settings)
        messages = Messages()
        answers = Methods(messages).answers()
        self._requests = Requests(messages, answers, service.settings)
        self._health = Health(messages, service, frozenset({_SERVICE}))
        self._calls = 0
        self._arrivals = Arrivals()
        self._server = grpc.aio.server(
            options=_options(service.settings), maximum_concurrent_rpcs=_MOST_UNFINISHED
        )
        self._server.add_generic_rpc_handlers((_Methods(self._handlers(answers)),))

    async def start(self, host: str, port: int) -> None:
        """Listen. Raises SettingsError when the port is taken."""
        for address in addresses_of(host):
            with only_at(address, port):
                self._listen(address, port)
            _log.info("listening on %s port %d (gRPC)", address, port)
        await self._server.start()

    def _listen(self, address: str, port: int) -> None:
        place = f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
        tls = _credentials(self._service.settings)
        try:
            if tls is None:
                self._server.add_insecure_port(place)
            else:
                self._server.add_secure_port(place, tls)
        except RuntimeError:
            raise SettingsError(
                "NIM_TRITON_GRPC_PORT", f"port {port}", f"a port that is free on {address}, or 0"
            ) from None

    async def stop(self) -> None:
        """Refuse new calls, and wait until those that run are answered."""
        self._health.end()
        await self._server.stop(self._service.settings.drain_timeout_s)

    def _handlers(self, answers: Mapping[str, Answer]) -> dict[str, grpc.RpcMethodHandler]:
        """What answers each path, _OTHER those that are not served."""
        served = {
            f"/{_SERVICE}/{name}": self._handler(name, partial(self._answer, name, answer))
            for name, answer in answers.items()
        }
        health = {
            f"/{HEALTH}/Check": self._handler("Check", self._health.check),
            f"/{HEALTH}/{_WATCH}": self._handler(_WATCH, self._health.watch),
        }
        return {_OTHER: self._handler(_OTHER, _refuse), **served, **health}

    def _handler(self, name: str, serve: Serve) -> grpc.RpcMethodHandler:
        """What answers calls of this method with what `serve` gives."""

        async def handle(_: object, context: Context) -> Any:
            _expect_gone_callers()
            began = time.monotonic()
            code = grpc.StatusCode.CANCELLED
            caller = grpc_caller(_authorization(context), context.peer())
            call = Call(self._service, context.time_remaining(), caller)
            given = _text_metadata(context)
            trace = self._begin(name, given)
            ids = ids_of(given, trace)
            metadata = {"x-request-id": ids["request_id"]}
            if trace is not None:
                metadata["traceresponse"] = trace.traceresponse
            before = current_request.set(ids)
            try:
                try:
                    self._check_key(name, context)
                    reply = await serve(context, call)
                    context.set_trailing_metadata(tuple({**metadata, **call.headers()}.items()))
                    code = grpc.StatusCode.OK
                    return reply
                except Exception as error:
                    self._service.metrics.count_refusal(error)
                    log_failure(error, self._service.settings)
                    code = code_of(error)
                    failure = classify_error(error, self._service.settings)
                    message = status_message(error, failure.message)
                    # The others are HTTP's own; one of a connection makes an answer malformed.
                    if wait := failure.headers.get(_RETRY):
                        metadata[_RETRY] = wait
                    drop_tracebacks(error)
                # Behind the handling of the error, which gRPC would keep until the garbage is
                # collected, and with it the message that the error was raised over.
                context.set_trailing_metadata(tuple(metadata.items()))
                with suppress(grpc.aio.InternalError):  # the caller has gone
                    await context.abort(code, message)
            finally:
                seconds = time.monotonic() - began
                if name != _WATCH:  # it lasts as long as its caller wants
                    self._service.metrics.observe(f"grpc {name}", code.name, seconds)
                if trace is not None:
                    facts = {"rpc.system": "grpc", "rpc.grpc.status_code": code.value[0]}
                    failed = code in SERVER_FAULTS
                    trace.end(f"{_SERVICE}/{name}", facts, call.answers, failed=failed)
                level = logging.INFO if name == _INFER else logging.DEBUG
                _log.log(level, "grpc %s %s %.1f ms", name, code.name, seconds * 1e3)
                current_request.reset(before)

        # On the wire a stream of one message is that message; only a stream's handler runs before
        # the message is there.
        kind = grpc.stream_unary_rpc_method_handler
        if name == _WATCH:  # it writes its replies itself
            kind = grpc.stream_stream_rpc_method_handler
        return kind(handle, response_serializer=lambda reply: reply.SerializeToString())

    async def _answer(self, method: str, answer: Answer, context: Context, call: Call) -> Any:
        """The reply to a call that may be made."""
        if method in _SILENT:
            return await answer(None, call)
        async with self._call_slot():
            with ExitStack() as room:
                return await answer(await self._read(method, context, call, room), call)

    @asynccontextmanager
    async def _call_slot(self) -> AsyncIterator[None]:
        """Hold one of the places for calls. Raises Overloaded when all are taken."""
        if self._calls >= _MOST_CALLS:
            raise Overloaded(f"{self._calls} gRPC calls are running; send fewer at the same time")
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1

    async def _read(
        self,
        method: str,
        context: Context,
        call: Call,
        room: ExitStack,
    ) -> Any:
        """The call's request, which takes a part of the room for bodies until `room` closes.

        Raises BodyTooSlow, ClientDisconnected, Overloaded or InvalidRequest. Nothing is awaited from the parsing
        on until the model's answer is, so that copies of a message are made of one at a time.
        """
        message = await self._arrivals.read(context, call.deadline)
        body_budget = self._service.body_budget
        room.enter_context(body_budget.reserving(len(message)))
        beside = await self._requests.decoded_bytes(method, message, body_budget.slices)
        room.enter_context(body_budget.reserving(beside))
        await body_budget.slices.before(len(message))
        return self._requests.parse(method, message)

    def _begin(self, name: str, given: dict[str, str]) -> Trace | None:
        """The call's span; what asks no model has none."""
        tracing = self._service.tracing
        if tracing is None or name != _INFER:
            return None
        return tracing.begin(name, given, {"rpc.method": name})

    def _check_key(self, name: str, context: Context) -> None:
        if name in _OPEN:
            return
        if not self._keys.accepts(_authorization(context)):
            raise AuthenticationRequired


class _Methods(grpc.GenericRpcHandler):  # type: ignore[misc]  # it has no types
    """Finds the handler of a method; one that is not served has one as well, which asks for a key
    before it says so."""

    def __init__(self, handlers: dict[str, grpc.RpcMethodHandler]) -> None:
        self._handlers = handlers

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """The handler of `details.method`, /package.Service/Method."""
        return self._handlers.get(details.method, self._handlers[_OTHER])


async def _refuse(_: Context, __: Call) -> None:
    raise UnknownMethod


def _options(settings: Settings) -> list[tuple[str, int]]:
    """gRPC's own limits, in the words of its channel arguments."""
    return [
        ("grpc.max_receive_message_length", settings.body_limit_bytes),
        ("grpc.max_send_message_length", -1),
        # More than there are places, so that a client is refused at once rather than kept waiting.
        ("grpc.max_concurrent_streams", 2 * _MOST_CALLS),
        ("grpc.max_allowed_incoming_connections", most_connections(GRPC_SHARE)),
        ("grpc.server_handshake_timeout_ms", settings.header_timeout_s * 1000),
        ("grpc.keepalive_time_ms", _ASK_MS),
        ("grpc.keepalive_timeout_ms", _PATIENCE_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", _PING_PAUSE_MS),
        ("grpc.http2.max_ping_strikes", _FORGIVEN_PINGS),
        ("grpc.max_connection_age_ms", _OLDEST_MS),
        ("grpc.max_connection_age_grace_ms", settings.request_timeout_s * 1000),
        # Two servers must not share a port without knowing.
        ("grpc.so_reuseport", 0),
    ]


def _expect_gone_callers() -> None:
    """Let the present call's task fail in silence when its caller is not there any more.

    gRPC sends what the handler returned in the same task, after it, and what it raises then would
    be logged as an error with its traceback.
    """
    task = asyncio.current_task()
    assert task is not None
    task.add_done_callback(_note_failure)


def _note_failure(task: "asyncio.Task[Any]") -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.debug("a caller went away before its answer was sent: %s", type(error).__name__)


def _text_metadata(context: Context) -> dict[str, str]:
    """The caller's metadata that is text."""
    metadata = context.invocation_metadata() or ()
    return {key: value for key, value in metadata if isinstance(value, str)}


def _authorization(context: Context) -> list[bytes]:
    """The values of the caller's authorization metadata."""
    return [
        value.encode() if isinstance(value, str) else value
        for key, value in context.invocation_metadata() or ()
        if key == "authorization"
    ]


def _credentials(settings: Settings) -> grpc.ServerCredentials | None:
    """The certificate that the HTTP ports show as well."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    pair = (settings.tls_key.read_bytes(), settings.tls_cert.read_bytes())
    return grpc.ssl_server_credentials([pair])
