"""GRPCInferenceService: the same models and inferences over gRPC.

nv-ingest's embedding client asks for ModelConfig and then infers; Triton's client library knows
the rest. Errors travel as gRPC statuses with the sentence that HTTP callers get. What HTTP tells in
headers is trailing metadata here (x-truncated-passages, server-timing, retry-after).
"""

import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import grpc
import grpc.aio

from runtime.errors import (
    ArtifactError,
    DeadlineExceeded,
    EngineError,
    InputRejected,
    Overloaded,
    Unavailable,
)
from server.auth import Keys
from server.call import Call, Limit
from server.errors import (
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
    VERSION,
    KserveModel,
    all_models,
    find,
)
from server.kserve.tensors import Declared, Output, TextTensor, from_elements, from_raw
from server.logs import current_request
from server.metadata import version
from server.observe import ids_of
from server.service import Service
from server.settings import Settings, SettingsError
from server.tracing import Trace

_log = logging.getLogger(__name__)

_SERVICE = "inference.GRPCInferenceService"
_INFER = "ModelInfer"
# Statuses that are the server's own fault, as OpenTelemetry's conventions count them.
_SERVER_FAULTS = (
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
)
_OPEN = frozenset({"ServerLive", "ServerReady"})
# The first class of an error's ancestry that is in here decides.
_CODES: dict[type[BaseException], grpc.StatusCode] = {
    NotValid: grpc.StatusCode.INVALID_ARGUMENT,
    InputRejected: grpc.StatusCode.INVALID_ARGUMENT,
    KeyWanted: grpc.StatusCode.UNAUTHENTICATED,
    NotServed: grpc.StatusCode.NOT_FOUND,
    UnknownModel: grpc.StatusCode.NOT_FOUND,
    RequestRefused: grpc.StatusCode.INVALID_ARGUMENT,
    Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
    DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
    ArtifactError: grpc.StatusCode.INTERNAL,
    EngineError: grpc.StatusCode.INTERNAL,
    Exception: grpc.StatusCode.INTERNAL,
}
_PARAMETER_FIELDS = ("bool_param", "int64_param", "string_param", "double_param", "uint64_param")

Answer = Callable[[Any, Call], Awaitable[Any]]


class GrpcServer:
    """Listens on one port from `start` to `stop`."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._keys = Keys(service.settings)
        self._messages = Messages()
        limit = service.settings.body_limit_bytes
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", limit),
                ("grpc.max_send_message_length", -1),
                # Two servers must not share a port without knowing.
                ("grpc.so_reuseport", 0),
            ]
        )
        self._server.add_generic_rpc_handlers((self._handlers(),))

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

    def _handlers(self) -> grpc.GenericRpcHandler:
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
        return grpc.method_handlers_generic_handler(
            _SERVICE, {name: self._handler(name, answer) for name, answer in answers.items()}
        )

    def _handler(self, name: str, answer: Answer) -> grpc.RpcMethodHandler:
        async def handle(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            began = time.monotonic()
            code = grpc.StatusCode.CANCELLED
            call = Call(self._service, context.time_remaining())
            given = _words(context)
            trace = self._begin(name, given)
            ids = ids_of(given, trace)
            told = {"x-request-id": ids["request_id"]}
            if trace is not None:
                told["traceresponse"] = trace.traceresponse
            before = current_request.set(ids)
            try:
                self._admit(name, context)
                reply = await answer(request, call)
                context.set_trailing_metadata(tuple({**told, **call.headers()}.items()))
                code = grpc.StatusCode.OK
                return reply
            except Exception as error:
                log_failure(error, self._service.settings)
                code = next(_CODES[kind] for kind in type(error).__mro__ if kind in _CODES)
                failure = explain(error, self._service.settings)
                context.set_trailing_metadata(tuple({**told, **failure.headers}.items()))
                await context.abort(code, failure.message)
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

        return grpc.unary_unary_rpc_method_handler(
            handle,
            request_deserializer=self._messages[f"{name}Request"].FromString,
            response_serializer=lambda reply: reply.SerializeToString(),
        )

    def _begin(self, name: str, given: dict[str, str]) -> Trace | None:
        """The call's span; what asks no model has none."""
        tracing = self._service.tracing
        if tracing is None or name != _INFER:
            return None
        return tracing.begin(name, given, {"rpc.method": name})

    def _admit(self, name: str, context: grpc.aio.ServicerContext[Any, Any]) -> None:
        if name in _OPEN:
            return
        given = [
            value.encode() if isinstance(value, str) else value
            for key, value in context.invocation_metadata() or ()
            if key == "authorization"
        ]
        if not self._keys.admit(given):
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
            versions=[VERSION],
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
            max_batch_size=model.limit.texts,
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
            version=VERSION,
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
            models=[index(name=model.name, version=VERSION, state="READY") for model in models]
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
            model_version=VERSION,
            id=request.id,
            outputs=[self._output(output) for output in outputs],
            raw_output_contents=[output.raw() for output in outputs],
        )

    def _output(self, output: Output) -> Any:
        message = self._messages["InferOutputTensor"]
        return message(name=output.name, datatype=output.datatype, shape=output.values.shape)


def _words(context: grpc.aio.ServicerContext[Any, Any]) -> dict[str, str]:
    """The caller's metadata that is text."""
    metadata = context.invocation_metadata() or ()
    return {key: value for key, value in metadata if isinstance(value, str)}


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
