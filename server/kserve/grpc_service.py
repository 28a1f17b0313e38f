"""GRPCInferenceService: the same models and inferences over gRPC.

nv-ingest's embedding client asks for ModelConfig and then infers; Triton's client library knows
the rest. Errors travel as gRPC statuses with the sentence that HTTP callers get. What HTTP tells in
headers is trailing metadata here (x-truncated-passages, server-timing, retry-after).

A call's message is not read before the call has its key and its place. Health needs neither.
"""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from runtime.errors import (
    ArtifactError,
    DeadlineExceeded,
    EngineError,
    InputRejected,
    Overloaded,
    TooLate,
    Unavailable,
)
from server.auth import Keys
from server.call import Call, Limit
from server.caller import grpc_caller
from server.descriptors import GRPC_SHARE, most_connections
from server.errors import (
    BodyTooSlow,
    ClientGone,
    KeyWanted,
    NotServed,
    NotValid,
    RequestRefused,
    UnknownModel,
    explain,
    log_failure,
)
from server.kserve.inference import Wanted, infer
from server.kserve.managing import NotManaged, reload
from server.kserve.messages import CONFIG_TYPES, Messages
from server.kserve.models import (
    EXTENSIONS,
    PLATFORM,
    SERVER_NAME,
    KserveModel,
    all_models,
    find,
)
from server.kserve.tensors import Declared, Output, TextTensor, from_elements, from_raw
from server.logs import current_request
from server.metadata import version
from server.names import TRITON_VERSION
from server.observe import ids_of
from server.service import Service
from server.settings import Settings, SettingsError
from server.tracing import Trace

_log = logging.getLogger(__name__)

_SERVICE = "inference.GRPCInferenceService"
_INFER = "ModelInfer"
# What a method that is not served is called in counts: its name is the caller's own.
_OTHER = "other"
# Calls at the same time, each with one message of at most NIM_HTTP_BODY_LIMIT_BYTES; and those of
# which gRPC still sends the answer. At the first bound, a call whose message is slow makes room.
_MOST_CALLS = 256
_MOST_UNFINISHED = 4096
_SLOW_S = 1.0
# A peer that is silent for a minute is asked whether it is there, and has twenty seconds to say so.
_ASK_MS = 60_000
_PATIENCE_MS = 20_000
# Pings of a caller without calls: more often is abuse, as for Triton; two are forgiven.
_PING_PAUSE_MS = 300_000
_FORGIVEN_PINGS = 2
# A connection ends after an hour, so that one that takes no answers ends too, and clients of a
# Service spread over new replicas. Clients open the next one by themselves.
_OLDEST_MS = 3_600_000


class UnknownMethod(RequestRefused):
    """A method that is not served."""

    def __init__(self) -> None:
        super().__init__("found a method that is not served here")


# Statuses that are the server's own fault, as OpenTelemetry's conventions count them.
_SERVER_FAULTS = (
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
)
# Asked for without a key and a place, as by probes of a server that is busy. Their messages say
# nothing, and are not awaited.
_OPEN = frozenset({"ServerLive", "ServerReady"})
# The first class of an error's ancestry that is in here decides.
_CODES: dict[type[BaseException], grpc.StatusCode] = {
    NotValid: grpc.StatusCode.INVALID_ARGUMENT,
    InputRejected: grpc.StatusCode.INVALID_ARGUMENT,
    KeyWanted: grpc.StatusCode.UNAUTHENTICATED,
    NotServed: grpc.StatusCode.NOT_FOUND,
    UnknownModel: grpc.StatusCode.NOT_FOUND,
    BodyTooSlow: grpc.StatusCode.DEADLINE_EXCEEDED,
    ClientGone: grpc.StatusCode.CANCELLED,
    UnknownMethod: grpc.StatusCode.UNIMPLEMENTED,
    RequestRefused: grpc.StatusCode.INVALID_ARGUMENT,
    TooLate: grpc.StatusCode.RESOURCE_EXHAUSTED,  # sent again it is as late
    Overloaded: grpc.StatusCode.UNAVAILABLE,
    DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
    ArtifactError: grpc.StatusCode.INTERNAL,
    EngineError: grpc.StatusCode.INTERNAL,
    Exception: grpc.StatusCode.INTERNAL,
}
# How Triton begins its refusals when a queue is full, in this status: nv-ingest sends again what is
# refused in these words, and gives up on everything else.
_QUEUE_FULL = "Exceeds maximum queue size"
_PARAMETER_FIELDS = ("bool_param", "int64_param", "string_param", "double_param", "uint64_param")

Answer = Callable[[Any, Call], Awaitable[Any]]


class GrpcServer:
    """Listens on one port from `start` to `stop`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._keys = Keys(service.settings)
        self._messages = Messages()
        self._calls = 0
        # Those whose message is awaited, oldest first: when that began, and its time limit.
        self._arriving: list[tuple[float, asyncio.Timeout]] = []
        self._server = grpc.aio.server(
            options=_options(service.settings), maximum_concurrent_rpcs=_MOST_UNFINISHED
        )
        self._server.add_generic_rpc_handlers((_Methods(self._handlers()),))

    async def start(self, host: str, port: int) -> None:
        """Listen. Raises SettingsError when the port is taken."""
        try:
            address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            tls = _credentials(self._service.settings)
            if tls is None:
                self._server.add_insecure_port(address)
            else:
                self._server.add_secure_port(address, tls)
        except RuntimeError:
            raise SettingsError(
                "NIM_TRITON_GRPC_PORT", f"port {port}", f"a port that is free on {host}, or 0"
            ) from None
        await self._server.start()
        _log.info("listening on %s port %d (gRPC)", host, port)

    async def stop(self) -> None:
        """Refuse new calls, and wait until those that run are answered."""
        await self._server.stop(self._service.settings.drain_timeout_s)

    def _handlers(self) -> dict[str, grpc.RpcMethodHandler]:
        answers: dict[str, Answer] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ServerMetadata": self._server_metadata,
            "ModelReady": self._model_ready,
            "ModelMetadata": self._model_metadata,
            "ModelConfig": self._model_config,
            "ModelStatistics": self._model_statistics,
            "ModelInfer": self._model_infer,
            "RepositoryIndex": self._repository_index,
            "RepositoryModelLoad": self._repository_model_load,
        }
        unknown = self._handler(_OTHER, None)
        return {_OTHER: unknown} | {
            name: self._handler(name, answer) for name, answer in answers.items()
        }

    def _handler(self, name: str, answer: Answer | None) -> grpc.RpcMethodHandler:
        """What answers calls of this method; without `answer` it is not served."""

        async def handle(_: object, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            began = time.monotonic()
            code = grpc.StatusCode.CANCELLED
            caller = grpc_caller(_authorization(context), context.peer())
            call = Call(self._service, context.time_remaining(), caller)
            given = _words(context)
            trace = self._begin(name, given)
            ids = ids_of(given, trace)
            told = {"x-request-id": ids["request_id"]}
            if trace is not None:
                told["traceresponse"] = trace.traceresponse
            before = current_request.set(ids)
            try:
                self._admit(name, context)
                if answer is None:
                    raise UnknownMethod
                if name in _OPEN:
                    reply = await answer(None, call)
                else:
                    async with self._placed():
                        message = await self._read(context, call)
                        with self._service.bodies.holding(len(message)):
                            reply = await answer(self._parsed(name, message), call)
                context.set_trailing_metadata(tuple({**told, **call.headers()}.items()))
                code = grpc.StatusCode.OK
                return reply
            except Exception as error:
                self._service.metrics.count_refusal(error)
                log_failure(error, self._service.settings)
                code = next(_CODES[kind] for kind in type(error).__mro__ if kind in _CODES)
                failure = explain(error, self._service.settings)
                context.set_trailing_metadata(tuple({**told, **failure.headers}.items()))
                await context.abort(code, _said(code, error, failure.message))
            finally:
                seconds = time.monotonic() - began
                self._service.metrics.observe(f"grpc {name}", code.name, seconds)
                if trace is not None:
                    facts = {"rpc.system": "grpc", "rpc.grpc.status_code": code.value[0]}
                    failed = code in _SERVER_FAULTS
                    trace.end(f"{_SERVICE}/{name}", facts, call.answers, failed=failed)
                level = logging.INFO if name == _INFER else logging.DEBUG
                _log.log(level, "grpc %s %s %.1f ms", name, code.name, seconds * 1e3)
                current_request.reset(before)

        # On the wire a stream of one message is that message; only a stream's handler runs before
        # the message is there.
        return grpc.stream_unary_rpc_method_handler(
            handle, response_serializer=lambda reply: reply.SerializeToString()
        )

    @asynccontextmanager
    async def _placed(self) -> AsyncIterator[None]:
        """Hold one of the places for calls. Raises Overloaded when all are taken."""
        if self._calls >= _MOST_CALLS:
            self._make_room()
            raise Overloaded(f"{self._calls} gRPC calls are running; send fewer at the same time")
        self._calls += 1
        try:
            yield
        finally:
            self._calls -= 1

    def _make_room(self) -> None:
        """End the call that has waited longest for its message, if that is slow."""
        if not self._arriving:
            return
        began, limit = self._arriving[0]
        if time.monotonic() - began > _SLOW_S:
            del self._arriving[0]
            limit.reschedule(asyncio.get_running_loop().time())

    async def _read(self, context: grpc.aio.ServicerContext[Any, Any], call: Call) -> bytes:
        """The call's message. Raises BodyTooSlow or ClientGone."""
        began = time.monotonic()
        wait_s = max(0.0, call.deadline - began)
        try:
            async with asyncio.timeout(wait_s) as limit:
                awaited = (began, limit)
                self._arriving.append(awaited)
                try:
                    message = await context.read()
                finally:
                    if awaited in self._arriving:
                        self._arriving.remove(awaited)
        except TimeoutError:
            raise BodyTooSlow(time.monotonic() - began) from None
        if not isinstance(message, bytes):  # the end of the stream
            raise ClientGone
        return message

    def _parsed(self, name: str, message: bytes) -> Any:
        """The request in `message`. Raises NotValid."""
        try:
            return self._messages[f"{name}Request"].FromString(message)
        except DecodeError:
            raise NotValid("value_error", (), f"found bytes that are no {name}Request") from None

    def _begin(self, name: str, given: dict[str, str]) -> Trace | None:
        """The call's span; what asks no model has none."""
        tracing = self._service.tracing
        if tracing is None or name != _INFER:
            return None
        return tracing.begin(name, given, {"rpc.method": name})

    def _admit(self, name: str, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        if name in _OPEN:
            return
        if not self._keys.admit(_authorization(context)):
            raise KeyWanted

    async def _server_live(self, _: Any, call: Call) -> Any:
        return self._messages["ServerLiveResponse"](live=call.service.live)

    async def _server_ready(self, _: Any, call: Call) -> Any:
        return self._messages["ServerReadyResponse"](ready=call.service.ready)

    async def _server_metadata(self, _: Any, __: Call) -> Any:
        reply = self._messages["ServerMetadataResponse"]
        return reply(name=SERVER_NAME, version=version(), extensions=EXTENSIONS)

    async def _model_ready(self, request: Any, call: Call) -> Any:
        if call.service.loaded:  # until then nobody knows the names
            find(call.service, request.name, request.version)
        return self._messages["ModelReadyResponse"](ready=call.service.ready)

    async def _model_metadata(self, request: Any, call: Call) -> Any:
        model = find(call.service, request.name, request.version)
        tensor = self._messages["TensorMetadata"]
        return self._messages["ModelMetadataResponse"](
            name=model.name,
            versions=[TRITON_VERSION],
            platform=PLATFORM,
            inputs=[tensor(name=t.name, datatype=t.datatype, shape=t.shape) for t in model.inputs],
            outputs=[
                tensor(name=t.name, datatype=t.datatype, shape=t.shape) for t in model.outputs
            ],
        )

    async def _model_config(self, request: Any, call: Call) -> Any:
        model = find(call.service, request.name, request.version)
        ends = {
            end: [
                self._messages[message](
                    name=t.name, data_type=CONFIG_TYPES[t.config_type], dims=t.dims
                )
                for t in tensors
            ]
            for end, message, tensors in (
                ("input", "ModelInput", model.inputs),
                ("output", "ModelOutput", model.outputs),
            )
        }
        config = self._messages["ModelConfig"](
            name=model.name,
            platform=PLATFORM,
            backend=PLATFORM,
            max_batch_size=model.max_batch_size,
            dynamic_batching=self._messages["ModelDynamicBatching"](),
            **ends,
        )
        return self._messages["ModelConfigResponse"](config=config)

    async def _model_statistics(self, request: Any, call: Call) -> Any:
        service = call.service
        named = [find(service, request.name, request.version)] if request.name else None
        models = all_models(service) if named is None else named
        return self._messages["ModelStatisticsResponse"](
            model_stats=[self._statistics(model) for model in models]
        )

    def _statistics(self, model: KserveModel) -> Any:
        found = model.statistics()
        duration = self._messages["StatisticDuration"]
        return self._messages["ModelStatistics"](
            name=model.name,
            version=TRITON_VERSION,
            last_inference=found.last_inference_ms,
            inference_count=found.inference_count,
            execution_count=found.execution_count,
            inference_stats=self._messages["InferStatistics"](
                **{name: duration(count=s.count, ns=s.ns) for name, s in found.stages.items()}
            ),
        )

    async def _repository_index(self, request: Any, call: Call) -> Any:  # noqa: ARG002
        index = self._messages["ModelIndex"]
        models = all_models(call.service)
        return self._messages["RepositoryIndexResponse"](
            models=[
                index(name=model.name, version=TRITON_VERSION, state="READY") for model in models
            ]
        )

    async def _repository_model_load(self, request: Any, call: Call) -> Any:
        if request.parameters:
            raise NotManaged("the model's directory is loaded as it is; send no parameters")
        await reload(call.service, find(call.service, request.model_name, None))
        return self._messages["RepositoryModelLoadResponse"]()

    async def _model_infer(self, request: Any, call: Call) -> Any:
        model = find(call.service, request.model_name, request.model_version)
        wanted = (Wanted(output.name, _parameters(output)) for output in request.outputs)
        tensors = _tensors(request, model.limit)
        outputs = await infer(call, model, tensors, _parameters(request), wanted)
        return self._messages["ModelInferResponse"](
            model_name=model.name,
            model_version=TRITON_VERSION,
            id=request.id,
            outputs=[self._output(output) for output in outputs],
            raw_output_contents=[output.raw() for output in outputs],
        )

    def _output(self, output: Output) -> Any:
        message = self._messages["InferOutputTensor"]
        return message(name=output.name, datatype=output.datatype, shape=output.values.shape)


class _Methods(grpc.GenericRpcHandler):  # type: ignore[misc]  # it has no types
    """Finds the handler of a method; one that is not served has one as well, which asks for a key
    before it says so."""

    def __init__(self, handlers: dict[str, grpc.RpcMethodHandler]) -> None:
        self._handlers = handlers

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler:
        """The handler of `details.method`, /package.Service/Method."""
        service, _, name = details.method.lstrip("/").partition("/")
        known = service == _SERVICE and name in self._handlers
        return self._handlers[name if known else _OTHER]


def _said(code: grpc.StatusCode, error: Exception, message: str) -> str:
    full = isinstance(error, Overloaded) and code is grpc.StatusCode.UNAVAILABLE
    return f"{_QUEUE_FULL}: {message}" if full else message


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


def _words(context: grpc.aio.ServicerContext[Any, Any]) -> dict[str, str]:
    """The caller's metadata that is text."""
    metadata = context.invocation_metadata() or ()
    return {key: value for key, value in metadata if isinstance(value, str)}


def _authorization(context: grpc.aio.ServicerContext[Any, Any]) -> list[bytes]:
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


def _tensors(request: Any, limit: Limit) -> Iterator[TextTensor]:
    """The inputs, whose elements come as raw bytes of all of them, or in each one's contents."""
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        message = f"found {len(raw)} raw contents for {len(request.inputs)} inputs"
        raise NotValid("value_error", ("raw_input_contents",), f"{message}, wanted one for each")
    for index, given in enumerate(request.inputs):
        place, parameters = ("inputs", index), _parameters(given)
        declared = Declared(place, given.name, given.datatype, given.shape, parameters, limit)
        if raw:
            yield from_raw(declared, memoryview(raw[index]))
        else:
            yield from_elements(declared, given.contents.bytes_contents)


def _parameters(message: Any) -> dict[str, Any]:
    """The parameters of a request, or of one of its tensors."""
    found: dict[str, Any] = {}
    for name, parameter in message.parameters.items():
        fields = [field for field in _PARAMETER_FIELDS if parameter.HasField(field)]
        found[name] = getattr(parameter, fields[0]) if fields else None
    return found
