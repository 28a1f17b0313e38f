"""KServe v2's REST messages: JSON, and raw tensors after the JSON (Triton's binary tensor data
extension).
"""

from collections.abc import Iterator
from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from server.call import Limit, Place
from server.errors import InvalidRequest
from server.kserve.inference import whole_number
from server.kserve.models import KserveModel, ModelStatistics
from server.kserve.tensors import (
    Declared,
    Output,
    TextTensor,
    text_tensor,
    texts_of_json,
    texts_of_raw,
)
from server.names import TRITON_VERSION

# The header with the number of JSON bytes before the raw tensors.
HEADER_LENGTH = "inference-header-content-length"
Parameters = dict[str, Any]


# Request
class InferInput(msgspec.Struct):
    """An input: texts in `data`, or raw after the JSON with the parameter binary_data_size."""

    name: str
    shape: list[int]
    datatype: Annotated[str, Meta(extra_json_schema={"enum": ["BYTES"]})]
    parameters: Parameters | None = None
    data: list[Any] | UnsetType = UNSET


class InferOutput(msgspec.Struct):
    """A requested output; the parameter binary_data requests raw bytes."""

    name: str
    parameters: Parameters | None = None


class InferRequest(msgspec.Struct):
    """An inference. Parameters: truncate; input_type, dimensions, embedding_type to embed. Images
    are in the optional inputs passage_image, or in text as modality says."""

    inputs: list[InferInput]
    outputs: list[InferOutput] | None = None
    id: str | None = None
    parameters: Parameters | None = None


class IndexRequest(msgspec.Struct):
    """Which models to list."""

    ready: bool = False


class LoadRequest(msgspec.Struct):
    """Triton's parameters (a configuration, files) are refused: the model's directory is loaded."""

    parameters: Annotated[dict[str, Any], Meta(max_length=0)] | None = None


# Reply
class OutputReply(msgspec.Struct):
    """An output: row-major in `data`, or raw after the JSON."""

    name: str
    datatype: str
    shape: list[int]
    data: list[Any] | UnsetType = UNSET
    parameters: Parameters | UnsetType = UNSET


class InferReply(msgspec.Struct):
    """The outputs of an inference."""

    model_name: str
    model_version: str
    outputs: list[OutputReply]
    id: str | UnsetType = UNSET


class ServerReply(msgspec.Struct):
    """The server."""

    name: str
    version: str
    extensions: list[str]


class ModelReadyReply(msgspec.Struct):
    """A model that is ready."""

    name: str
    ready: bool


class StatisticsReply(msgspec.Struct):
    """Counters of one model or all."""

    model_stats: list[ModelStatistics]


class IndexEntry(msgspec.Struct):
    """One model of the repository."""

    name: str
    version: str
    state: str
    reason: str


# Mapping
def split_body(body: bytes, header: str | None) -> tuple[bytes, memoryview]:
    """Split a body into the JSON and the raw tensors after it. Raises InvalidRequest."""
    if header is None:
        return body, memoryview(b"")
    size = whole_number(header.strip())
    if size is None or size > len(body):
        message = f"wanted a number of bytes up to the body's {len(body)}"
        raise InvalidRequest("value_error", ("Inference-Header-Content-Length",), message)
    return body[:size], memoryview(body)[size:]


def read_tensors(request: InferRequest, raw: memoryview, limit: Limit) -> Iterator[TextTensor]:
    """Yield the inputs, from their `data` or from `raw`. Raises InvalidRequest."""
    for index, given in enumerate(request.inputs):
        place, parameters = ("inputs", index), given.parameters or {}
        declared = Declared(place, given.name, given.datatype, given.shape, parameters, limit)
        size = parameters.get("binary_data_size")
        if size is None:
            data = None if given.data is UNSET else given.data
            yield text_tensor(declared, texts_of_json(data, declared))
            continue
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(raw):
            message = f"wanted binary_data_size from 0 to the {len(raw)} bytes that are left"
            raise InvalidRequest("value_error", place, message)
        if given.data is not UNSET:
            message = "found data and binary_data_size, wanted one of them"
            raise InvalidRequest("value_error", place, message)
        yield text_tensor(declared, texts_of_raw(raw[:size], declared))
        raw = raw[size:]
    if len(raw):
        raise InvalidRequest("value_error", (), f"found {len(raw)} bytes that belong to no input")


def raw_outputs(request: InferRequest) -> dict[str | None, bool | None]:
    """Which outputs are wanted raw, by name; None is for those without a flag of their own. Raises
    InvalidRequest for a flag that is neither true nor false."""
    flags: dict[str | None, bool | None] = {}
    flags[None] = _flag(request.parameters, "binary_data_output", ("parameters",))
    for index, output in enumerate(request.outputs or ()):
        flag = _flag(output.parameters, "binary_data", ("outputs", index, "parameters"))
        if flag is not None:
            flags[output.name] = flag
    return flags


def _flag(parameters: Parameters | None, name: str, place: Place) -> bool | None:
    found = (parameters or {}).get(name)
    if not isinstance(found, bool | None):
        raise InvalidRequest("bool_type", (*place, name), "wanted true or false")
    return found


def write_reply(
    request: InferRequest, model: KserveModel, outputs: list[Output]
) -> tuple[bytes, dict[str, str]]:
    """Encode the reply. Returns its bytes, and the header with the length of the JSON if raw
    tensors follow."""
    flags = raw_outputs(request)
    replies, tail = [], []
    for output in outputs:
        shape = list(output.values.shape)
        if flags.get(output.name, flags[None]):
            raw = output.raw()
            tail.append(raw)
            size = {"binary_data_size": len(raw)}
            replies.append(OutputReply(output.name, output.datatype, shape, parameters=size))
        else:
            data = output.values.ravel().tolist()
            replies.append(OutputReply(output.name, output.datatype, shape, data=data))
    request_id = UNSET if request.id is None else request.id
    head = msgspec.json.encode(InferReply(model.name, TRITON_VERSION, replies, id=request_id))
    headers = {HEADER_LENGTH: str(len(head))} if tail else {}
    return b"".join([head, *tail]), headers
