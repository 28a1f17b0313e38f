"""The methods of GRPCInferenceService: request messages to reply messages."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from msgspec import to_builtins

from server.call import Call, Limit, Place
from server.errors import InvalidRequest, UnknownModel
from server.kserve.inference import Wanted, infer
from server.kserve.messages import CONFIG_TYPES, Messages
from server.kserve.model_control import ModelControlRefused, reload
from server.kserve.models import (
    EXTENSIONS,
    SERVER_NAME,
    KserveModel,
    all_models,
    find,
)
from server.kserve.tensors import BYTES, Declared, Output, from_elements, from_raw
from server.metadata import version
from server.names import TRITON_VERSION

Answer = Callable[[Any, Call], Awaitable[Any]]

_PARAMETER_FIELDS = ("bool_param", "int64_param", "string_param", "double_param", "uint64_param")
_TEXTS = "bytes_contents"


class Methods:
    """The served methods; each takes its request and the call."""

    def __init__(self, messages: Messages) -> None:
        self._messages = messages

    def answers(self) -> Mapping[str, Answer]:
        """The handler of each method, by the method's name."""
        return {
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

    async def _server_live(self, _: Any, call: Call) -> Any:
        return self._messages["ServerLiveResponse"](live=call.service.live)

    async def _server_ready(self, _: Any, call: Call) -> Any:
        return self._messages["ServerReadyResponse"](ready=call.service.ready)

    async def _server_metadata(self, _: Any, __: Call) -> Any:
        reply = self._messages["ServerMetadataResponse"]
        return reply(name=SERVER_NAME, version=version(), extensions=EXTENSIONS)

    async def _model_ready(self, request: Any, call: Call) -> Any:
        """An unknown model is not ready, as in Triton."""
        ready = call.service.ready
        if ready:
            try:
                find(call.service, request.name, request.version)
            except UnknownModel:
                ready = False
        return self._messages["ModelReadyResponse"](ready=ready)

    async def _model_metadata(self, request: Any, call: Call) -> Any:
        model = find(call.service, request.name, request.version)
        return self._messages["ModelMetadataResponse"](**to_builtins(model.metadata()))

    async def _model_config(self, request: Any, call: Call) -> Any:
        model = find(call.service, request.name, request.version)
        config = to_builtins(model.config())
        for tensor in config["input"] + config["output"]:
            tensor["data_type"] = CONFIG_TYPES[tensor["data_type"]]
        return self._messages["ModelConfigResponse"](config=config)

    async def _model_statistics(self, request: Any, call: Call) -> Any:
        service = call.service
        named = [find(service, request.name, request.version)] if request.name else None
        models = all_models(service) if named is None else named
        return self._messages["ModelStatisticsResponse"](
            model_stats=[self._statistics(model) for model in models]
        )

    def _statistics(self, model: KserveModel) -> Any:
        message = self._messages["ModelStatistics"]
        known = message.DESCRIPTOR.fields_by_name
        found = to_builtins(model.statistics())
        return message(**{name: value for name, value in found.items() if name in known})

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
            raise ModelControlRefused(
                "the model's directory is loaded as it is; send no parameters"
            )
        await reload(call.service, find(call.service, request.model_name, None))
        return self._messages["RepositoryModelLoadResponse"]()

    async def _model_infer(self, request: Any, call: Call) -> Any:
        model = find(call.service, request.model_name, request.model_version)
        wanted = [Wanted(output.name, _parameters(output)) for output in request.outputs]
        contents, parameters = _contents(request, model.limit), _parameters(request)
        request_id = request.id
        # Free the message before its texts are decoded, which may take four times as much memory.
        del request
        tensors = (
            from_raw(declared, memoryview(found))
            if isinstance(found, bytes)
            else from_elements(declared, found)
            for declared, found in contents
        )
        del contents
        outputs = await infer(call, model, tensors, parameters, wanted)
        return self._messages["ModelInferResponse"](
            model_name=model.name,
            model_version=TRITON_VERSION,
            id=request_id,
            outputs=[self._output(output) for output in outputs],
            raw_output_contents=[output.raw() for output in outputs],
        )

    def _output(self, output: Output) -> Any:
        message = self._messages["InferOutputTensor"]
        return message(name=output.name, datatype=output.datatype, shape=output.values.shape)


def _contents(request: Any, limit: Limit) -> list[tuple[Declared, bytes | list[bytes]]]:
    """The inputs with their contents: the raw bytes of all elements, or a list of elements."""
    raw = request.raw_input_contents
    if raw and len(raw) != len(request.inputs):
        message = f"found {len(raw)} raw contents for {len(request.inputs)} inputs"
        raise InvalidRequest(
            "value_error", ("raw_input_contents",), f"{message}, wanted one for each"
        )
    found: list[tuple[Declared, bytes | list[bytes]]] = []
    for index, given in enumerate(request.inputs):
        place, parameters = ("inputs", index), _parameters(given)
        shape = tuple(given.shape)
        declared = Declared(place, given.name, given.datatype, shape, parameters, limit)
        if raw and given.HasField("contents"):
            message = "found contents beside raw_input_contents, wanted one of them"
            raise InvalidRequest("value_error", place, message)
        found.append((declared, raw[index] if raw else _elements(given, place)))
    return found


def _elements(given: Any, place: Place) -> list[bytes]:
    """The texts in an input's contents. Raises InvalidRequest for numbers."""
    if any(field.name != _TEXTS for field, _ in given.contents.ListFields()):
        message = f"found numbers as contents, wanted the datatype {BYTES} and texts in {_TEXTS}"
        raise InvalidRequest("value_error", place, message)
    return list(given.contents.bytes_contents)


def _parameters(message: Any) -> dict[str, Any]:
    """The parameters of a request or a tensor."""
    found: dict[str, Any] = {}
    for name, parameter in message.parameters.items():
        fields = [field for field in _PARAMETER_FIELDS if parameter.HasField(field)]
        found[name] = getattr(parameter, fields[0]) if fields else None
    return found
