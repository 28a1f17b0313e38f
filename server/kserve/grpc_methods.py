"""The methods of GRPCInferenceService: request messages to the fields of reply messages."""

from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from msgspec import to_builtins

from runtime.version import version
from server.call import Call, Limit, Place
from server.errors import InvalidRequest, UnknownModel
from server.kserve.inference import infer
from server.kserve.messages import CONFIG_TYPES
from server.kserve.model_control import ModelControlRefused, reload
from server.kserve.models import (
    EXTENSIONS,
    SERVER_NAME,
    KserveModel,
    all_models,
    find,
)
from server.kserve.tensors import BYTES, Declared, text_of, text_tensor, texts_of_raw
from server.names import TRITON_VERSION

# Takes a request and the call; returns the fields of the reply.
Answer = Callable[[Any, Call], Awaitable[dict[str, Any]]]

_PARAMETER_FIELDS = ("bool_param", "int64_param", "string_param", "double_param", "uint64_param")
_TEXTS = "bytes_contents"


async def _server_live(_: Any, call: Call) -> dict[str, Any]:
    return {"live": call.service.live}


async def _server_ready(_: Any, call: Call) -> dict[str, Any]:
    return {"ready": call.service.ready}


async def _server_metadata(_: Any, __: Call) -> dict[str, Any]:
    return {"name": SERVER_NAME, "version": version(), "extensions": EXTENSIONS}


async def _model_ready(request: Any, call: Call) -> dict[str, Any]:
    """An unknown model is not ready, as in Triton."""
    ready = call.service.ready
    if ready:
        try:
            find(call.service, request.name, request.version)
        except UnknownModel:
            ready = False
    return {"ready": ready}


async def _model_metadata(request: Any, call: Call) -> dict[str, Any]:
    fields: dict[str, Any] = to_builtins(_named(request, call).metadata())
    return fields


async def _model_config(request: Any, call: Call) -> dict[str, Any]:
    config = to_builtins(_named(request, call).config())
    for tensor in config["input"] + config["output"]:
        tensor["data_type"] = CONFIG_TYPES[tensor["data_type"]]
    return {"config": config}


async def _model_statistics(request: Any, call: Call) -> dict[str, Any]:
    models = [_named(request, call)] if request.name else all_models(call.service)
    statistics = [to_builtins(model.statistics()) for model in models]
    for one in statistics:
        del one["batch_stats"], one["memory_usage"]  # always empty, and no messages of ours
    return {"model_stats": statistics}


async def _repository_index(_: Any, call: Call) -> dict[str, Any]:
    ready = {"version": TRITON_VERSION, "state": "READY"}
    return {"models": [{"name": model.name, **ready} for model in all_models(call.service)]}


async def _repository_model_load(request: Any, call: Call) -> dict[str, Any]:
    if request.parameters:
        raise ModelControlRefused("the model's directory is loaded as it is; send no parameters")
    await reload(call.service, find(call.service, request.model_name, None))
    return {}


async def _model_infer(request: Any, call: Call) -> dict[str, Any]:
    model = find(call.service, request.model_name, request.model_version)
    wanted = [(output.name, _parameters(output)) for output in request.outputs]
    contents, parameters = _contents(request, model.limit), _parameters(request)
    request_id = request.id
    # Free the message before its texts are decoded, which may take four times as much memory.
    del request
    tensors = (
        text_tensor(
            declared,
            texts_of_raw(memoryview(found), declared)
            if isinstance(found, bytes)
            else map(partial(text_of, declared=declared), found),
        )
        for declared, found in contents
    )
    del contents
    outputs = await infer(call, model, tensors, parameters, wanted)
    return {
        "model_name": model.name,
        "model_version": TRITON_VERSION,
        "id": request_id,
        "outputs": [
            {"name": output.name, "datatype": output.datatype, "shape": output.values.shape}
            for output in outputs
        ],
        "raw_output_contents": [output.raw() for output in outputs],
    }


ANSWERS: Mapping[str, Answer] = {
    "ServerLive": _server_live,
    "ServerReady": _server_ready,
    "ServerMetadata": _server_metadata,
    "ModelReady": _model_ready,
    "ModelMetadata": _model_metadata,
    "ModelConfig": _model_config,
    "ModelStatistics": _model_statistics,
    "ModelInfer": _model_infer,
    "RepositoryIndex": _repository_index,
    "RepositoryModelLoad": _repository_model_load,
}


def _named(request: Any, call: Call) -> KserveModel:
    return find(call.service, request.name, request.version)


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
