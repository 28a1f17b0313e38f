"""GRPCInferenceService: the same models and inferences over gRPC, and gRPC's own health service.

nv-ingest's embedding client calls ModelConfig and ModelInfer; Triton's client library uses the
rest. Errors are gRPC statuses with the message that HTTP callers get. HTTP's response headers are
trailing metadata here (x-truncated-passages, server-timing, retry-after).

A call's message is read after the key is checked and a call slot is free, and parsed after its
values are counted. Health needs neither key nor slot.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any, TypeAlias

import grpc
import grpc.aio

from runtime.errors import Overloaded
from server.addresses import addresses_of, only_at
from server.auth import Keys
from server.call import Call
from server.caller import grpc_caller
from server.connection import Reservation
from server.descriptors import GRPC_SHARE, most_connections
from server.errors import AuthenticationRequired, classify_error, drop_tracebacks, log_failure
from server.kserve.arrivals import Arrivals, Context
from server.kserve.grpc_health import HEALTH, Health
from server.kserve.grpc_methods import ANSWERS, Answer
from server.kserve.grpc_requests import Requests
from server.kserve.grpc_status import SERVER_FAULTS, UnknownMethod, code_of, status_message
from server.kserve.messages import Messages
from server.logs import current_request
from server.observability import ids_of
from server.service import Service
from server.settings import Settings, SettingsError

_log = logging.getLogger(__name__)

# Answers a call: returns the reply, if it is not a stream, or raises.
Serve: TypeAlias = Callable[[Context, Call], Awaitable[Any]]

_SERVICE = "inference.GRPCInferenceService"
_INFER = "ModelInfer"
_WATCH = "Watch"
# The metrics' name of methods that are not served, because the name is the caller's text.
_OTHER = "other"
_RETRY = "retry-after"
# Call slots, each with a message of at most NIM_HTTP_BODY_LIMIT_BYTES; and calls including those
# whose answer gRPC still sends.
_MOST_CALLS = 256
_MOST_UNFINISHED = 4096
# Keepalive: a silent peer is pinged after a minute, and has twenty seconds to answer.
_ASK_MS = 60_000
_PATIENCE_MS = 20_000
# Pings of a client without calls: more frequent ones are abuse, as in Triton; two are tolerated.
_PING_PAUSE_MS = 300_000
_FORGIVEN_PINGS = 2
# The maximum age of a connection. It ends connections that read no answers, and spreads the clients
# of a Kubernetes Service over new replicas. Clients reconnect by themselves.
_OLDEST_MS = 3_600_000
# Methods without key and call slot, for probes of a busy server. The messages of the first two are
# empty and not read.
_SILENT = frozenset({"ServerLive", "ServerReady"})
_OPEN = _SILENT | {"Check", _WATCH}


class GrpcServer:
    """Listens on one port from `start` to `stop`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._keys = Keys(service.settings)
        self._messages = Messages()
        self._requests = Requests(self._messages, ANSWERS, service.settings)
        self._health = Health(self._messages, service, frozenset({_SERVICE}))
        self._calls = 0
        self._arrivals = Arrivals()
        self._server = grpc.aio.server(
            options=_options(service.settings), maximum_concurrent_rpcs=_MOST_UNFINISHED
        )
        self._server.add_generic_rpc_handlers((_Methods(self._handlers()),))

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
        """Refuse new calls, and wait until running ones are answered."""
        self._health.end()
        await self._server.stop(self._service.settings.drain_timeout_s)

    def _handlers(self) -> dict[str, grpc.RpcMethodHandler]:
        """The handler of each path; _OTHER handles methods that are not served."""
        served = {
            f"/{_SERVICE}/{name}": self._handler(name, partial(self._answer, name, answer))
            for name, answer in ANSWERS.items()
        }
        health = {
            f"/{HEALTH}/Check": self._handler("Check", self._health.check),
            f"/{HEALTH}/{_WATCH}": self._handler(_WATCH, self._health.watch),
        }
        return {_OTHER: self._handler(_OTHER, _refuse), **served, **health}

    def _handler(self, name: str, serve: Serve) -> grpc.RpcMethodHandler:
        """A handler for this method, which answers with the result of `serve`."""

        async def handle(_: object, context: Context) -> Any:
            _expect_gone_callers()
            began = time.monotonic()
            code = grpc.StatusCode.CANCELLED
            metadata = context.invocation_metadata() or ()
            bearers = [_bytes(value) for key, value in metadata if key == "authorization"]
            caller = grpc_caller(bearers, context.peer())
            call = Call(self._service, context.time_remaining(), caller)
            given = {key: value for key, value in metadata if isinstance(value, str)}
            tracing, trace = self._service.tracing, None
            if tracing is not None and name == _INFER:  # only inferences have a span
                trace = tracing.begin(name, given, {"rpc.method": name})
            ids = ids_of(given, trace)
            trailing = {"x-request-id": ids["request_id"]}
            if trace is not None:
                trailing["traceresponse"] = trace.traceresponse
            before = current_request.set(ids)
            try:
                try:
                    if name not in _OPEN and not self._keys.accepts(bearers):
                        raise AuthenticationRequired
                    reply = await serve(context, call)
                    context.set_trailing_metadata(tuple({**trailing, **call.headers()}.items()))
                    code = grpc.StatusCode.OK
                    return reply
                except Exception as error:
                    self._service.metrics.count_refusal(error)
                    log_failure(error, self._service.settings)
                    code = code_of(error)
                    failure = classify_error(error, self._service.settings)
                    message = status_message(error, failure.message)
                    # Other headers are HTTP's own; `connection` would make the answer malformed.
                    if wait := failure.headers.get(_RETRY):
                        trailing[_RETRY] = wait
                    drop_tracebacks(error)
                # Outside the except block: within it, gRPC's abort would keep the error, and with
                # it the request's message, until the next garbage collection.
                context.set_trailing_metadata(tuple(trailing.items()))
                with suppress(grpc.aio.InternalError):  # the caller has gone
                    await context.abort(code, message)
            finally:
                seconds = time.monotonic() - began
                if name != _WATCH:  # lasts as long as the client wants
                    self._service.metrics.observe(f"grpc {name}", code.name, seconds)
                if trace is not None:
                    facts = {"rpc.system": "grpc", "rpc.grpc.status_code": code.value[0]}
                    failed = code in SERVER_FAULTS
                    trace.end(f"{_SERVICE}/{name}", facts, call.answers, failed=failed)
                level = logging.INFO if name == _INFER else logging.DEBUG
                _log.log(level, "grpc %s %s %.1f ms", name, code.name, seconds * 1e3)
                current_request.reset(before)

        # A stream of one message looks like that message on the wire, but its handler runs before
        # the message is read.
        kind = grpc.stream_unary_rpc_method_handler
        if name == _WATCH:  # it writes its replies itself
            kind = grpc.stream_stream_rpc_method_handler
        return kind(handle, response_serializer=lambda reply: reply.SerializeToString())

    async def _answer(self, method: str, answer: Answer, context: Context, call: Call) -> Any:
        """Answer an authenticated call."""
        reply = self._messages[f"{method}Response"]
        if method in _SILENT:
            return reply(**await answer(None, call))
        with self._call_slot(), self._service.body_budget.reservation() as room:
            call.room = room
            return reply(**await answer(await self._read(method, context, call, room), call))

    @contextmanager
    def _call_slot(self) -> Iterator[None]:
        """Hold a call slot. Raises Overloaded when all are taken."""
        if self._calls >= _MOST_CALLS:
            raise Overloaded(f"{self._calls} gRPC calls are running; send fewer at the same time")
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1

    async def _read(self, method: str, context: Context, call: Call, room: Reservation) -> Any:
        """Read and parse the call's request; its part of the body budget is `room`.

        Raises BodyTooSlow, ClientDisconnected, Overloaded or InvalidRequest. Nothing is awaited
        between parsing and the wait for the model, so that only one message is copied at a time.
        """
        message = await self._arrivals.read(context, call.deadline)
        room.add(len(message))
        room.add(await self._requests.decoded_bytes(method, message, room.slices))
        await room.slices.before(len(message))
        return self._requests.parse(method, message)


class _Methods(grpc.GenericRpcHandler):  # type: ignore[misc]  # it has no types
    """Finds the handler of a method. A method that is not served also has a handler, which checks
    the key first."""

    def __init__(self, handlers: dict[str, grpc.RpcMethodHandler]) -> None:
        self._handlers = handlers

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """The handler of `details.method`, /package.Service/Method."""
        return self._handlers.get(details.method, self._handlers[_OTHER])


async def _refuse(_: Context, __: Call) -> None:
    raise UnknownMethod


def _options(settings: Settings) -> list[tuple[str, int]]:
    """gRPC's own limits, as channel arguments."""
    return [
        ("grpc.max_receive_message_length", settings.body_limit_bytes),
        ("grpc.max_send_message_length", -1),
        # More than the call slots, so that a client is refused at once rather than kept waiting.
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
        # Two servers must not share a port by accident.
        ("grpc.so_reuseport", 0),
    ]


def _expect_gone_callers() -> None:
    """Silence the error of the current call's task when its client has disconnected.

    gRPC sends the handler's result in the same task. An error there would be logged with its
    traceback.
    """
    task = asyncio.current_task()
    assert task is not None
    task.add_done_callback(_note_failure)


def _note_failure(task: "asyncio.Task[Any]") -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        _log.debug("a client disconnected before its answer was sent: %s", type(error).__name__)


def _bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value


def _credentials(settings: Settings) -> grpc.ServerCredentials | None:
    """The TLS credentials, with the certificate of the HTTP ports."""
    if settings.tls_cert is None or settings.tls_key is None:
        return None
    pair = (settings.tls_key.read_bytes(), settings.tls_cert.read_bytes())
    return grpc.ssl_server_credentials([pair])
