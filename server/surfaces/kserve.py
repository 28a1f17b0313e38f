"""KServe v2 over HTTP: /v2 and all below it, but for its health (server.health).

The Open Inference Protocol's REST form, with Triton's configuration, statistics, repository and
binary tensor data extensions. Triton's client library 2.73 works unchanged.
"""

import asyncio
from collections.abc import Iterator
from functools import partial
from typing import Annotated, Any

import msgspec
from litestar import Controller, Response, get, post
from litestar.di import NamedDependency
from msgspec import UNSET, Meta, UnsetType

from runtime.errors import InputTooLong, ModelClosed
from server.call import Limit
from server.errors import AnyRequest, Failure, NotValid, Spoken
from server.exchange import MANY_NUMBERS, Exchange
from server.kserve.inference import Wanted, infer, whole_number
from server.kserve.managing import NotManaged, reload
from server.kserve.models import (
    EXTENSIONS,
    PLATFORM,
    SERVER_NAME,
    VERSION,
    KserveModel,
    TensorFacts,
    all_models,
    find,
)
from server.kserve.tensors import Declared, Output, TextTensor, from_json, from_raw
from server.metadata import version as software_version
from server.openapi import Operation
from server.service import Service
from server.surface import Surface
from server.surfaces.nim import STATUSES

_HEADER_LENGTH = "inference-header-content-length"
_BINARY = "application/octet-stream"
Parameters = dict[str, Any]


# Request
class InferInput(msgspec.Struct):
    """An input: texts in `data`, or raw behind the JSON with the parameter binary_data_size."""

    name: str
    shape: list[int]
    datatype: Annotated[str, Meta(extra_json_schema={"enum": ["BYTES"]})]
    parameters: Parameters | None = None
    data: list[Any] | UnsetType = UNSET


class InferOutput(msgspec.Struct):
    """A wanted output; the parameter binary_data asks for raw bytes."""

    name: str
    parameters: Parameters | None = None


class InferRequest(msgspec.Struct):
    """An inference. Parameters: truncate; input_type, dimensions, embedding_type to embed."""

    inputs: list[InferInput]
    outputs: list[InferOutput] | None = None
    id: str | None = None
    parameters: Parameters | None = None


class IndexRequest(msgspec.Struct):
    """Which models to list."""

    ready: bool = False


class LoadRequest(msgspec.Struct):
    """Triton's parameters (a configuration, files) are refused: the directory is what is loaded."""

    parameters: Annotated[dict[str, Any], Meta(max_length=0)] | None = None


# Reply
class OutputReply(msgspec.Struct):
    """An output: row-major in `data`, or raw behind the JSON."""

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
    """What answers here."""

    name: str
    version: str
    extensions: list[str]


class TensorReply(msgspec.Struct):
    """A tensor; -1 stands for what varies."""

    name: str
    datatype: str
    shape: list[int]


class ModelReply(msgspec.Struct):
    """A model's metadata."""

    name: str
    versions: list[str]
    platform: str
    inputs: list[TensorReply]
    outputs: list[TensorReply]


class ConfigTensor(msgspec.Struct):
    """A tensor as Triton's configuration has it, without the batch."""

    name: str
    data_type: str
    dims: list[int]


class ConfigReply(msgspec.Struct):
    """A model's configuration in Triton's shape."""

    name: str
    platform: str
    backend: str
    max_batch_size: int
    input: list[ConfigTensor]
    output: list[ConfigTensor]
    dynamic_batching: dict[str, Any]


class StatisticDuration(msgspec.Struct):
    """How often, and nanoseconds in all."""

    count: int
    ns: int


class ModelStatistics(msgspec.Struct):
    """A model's counters: inference_count rows in execution_count engine calls."""

    name: str
    version: str
    last_inference: int
    inference_count: int
    execution_count: int
    inference_stats: dict[str, StatisticDuration]
    batch_stats: list[dict[str, Any]]
    memory_usage: list[dict[str, Any]]


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
_DECODER = msgspec.json.Decoder(InferRequest)
_LOAD_DECODER = msgspec.json.Decoder(LoadRequest)
_INDEX_DECODER = msgspec.json.Decoder(IndexRequest)
_ENCODER = msgspec.json.Encoder()


def _split(body: bytes, header: str | None) -> tuple[bytes, memoryview]:
    """The JSON, and the raw tensors behind it."""
    if header is None:
        return body, memoryview(b"")
    size = whole_number(header.strip())
    if size is None or size > len(body):
        message = f"wanted a number of bytes up to the body's {len(body)}"
        raise NotValid("value_error", ("Inference-Header-Content-Length",), message)
    return body[:size], memoryview(body)[size:]


def _tensors(request: InferRequest, raw: memoryview, limit: Limit) -> Iterator[TextTensor]:
    for index, given in enumerate(request.inputs):
        place, parameters = ("inputs", index), given.parameters or {}
        declared = Declared(place, given.name, given.datatype, given.shape, parameters, limit)
        size = parameters.get("binary_data_size")
        if size is None:
            data = None if given.data is UNSET else given.data
            yield from_json(declared, data)
            continue
        if isinstance(size, bool) or not isinstance(size, int) or not 0 <= size <= len(raw):
            message = f"wanted binary_data_size from 0 to the {len(raw)} bytes that are left"
            raise NotValid("value_error", place, message)
        if given.data is not UNSET:
            message = "found data and binary_data_size, wanted one of them"
            raise NotValid("value_error", place, message)
        yield from_raw(declared, raw[:size])
        raw = raw[size:]
    if len(raw):
        raise NotValid("value_error", (), f"found {len(raw)} bytes that belong to no input")


def _wants_binary(request: InferRequest, name: str) -> bool:
    for output in request.outputs or ():
        if output.name == name and "binary_data" in (output.parameters or {}):
            return bool((output.parameters or {})["binary_data"])
    return bool((request.parameters or {}).get("binary_data_output", False))


def _encode(
    request: InferRequest, model: KserveModel, outputs: list[Output]
) -> tuple[bytes, dict[str, str]]:
    """The reply's bytes, and the headers that tell where the JSON ends."""
    replies, tail = [], []
    for output in outputs:
        shape = list(output.values.shape)
        if _wants_binary(request, output.name):
            raw = output.raw()
            tail.append(raw)
            size = {"binary_data_size": len(raw)}
            replies.append(OutputReply(output.name, output.datatype, shape, parameters=size))
        else:
            data = output.values.ravel().tolist()
            replies.append(OutputReply(output.name, output.datatype, shape, data=data))
    told = UNSET if request.id is None else request.id
    head = _ENCODER.encode(InferReply(model.name, VERSION, replies, id=told))
    headers = {_HEADER_LENGTH: str(len(head))} if tail else {}
    return b"".join([head, *tail]), headers


def _tensor(facts: TensorFacts) -> TensorReply:
    return TensorReply(facts.name, facts.datatype, list(facts.shape))


def _config_tensor(facts: TensorFacts) -> ConfigTensor:
    return ConfigTensor(facts.name, facts.config_type, list(facts.dims))


def _statistics(model: KserveModel) -> ModelStatistics:
    found = model.statistics()
    return ModelStatistics(
        name=model.name,
        version=VERSION,
        last_inference=found.last_inference_ms,
        inference_count=found.inference_count,
        execution_count=found.execution_count,
        inference_stats={
            name: StatisticDuration(spent.count, spent.ns) for name, spent in found.stages.items()
        },
        batch_stats=[],
        memory_usage=[],
    )


# Error voice
class KserveError(msgspec.Struct):
    """KServe's error body."""

    error: str


_BAD_REQUEST = 400


def voice(failure: Failure) -> Spoken:
    """KServe's; a text that is too long is a bad request here."""
    long = issubclass(failure.kind, InputTooLong)
    status = _BAD_REQUEST if long else failure.status
    return Spoken(status, _ENCODER.encode(KserveError(failure.message)))


# Controller
def _versioned(tail: str) -> list[str]:
    return [f"/v2/models/{{model:str}}{tail}", f"/v2/models/{{model:str}}/versions/{{v:str}}{tail}"]


def _named(request: AnyRequest, service: Service) -> KserveModel:
    """The model of the path, whose version is in some of the paths only."""
    return find(service, request.path_params["model"], request.path_params.get("v"))


class KserveRoutes(Controller):
    """Every route is there with a version in its path and without."""

    @get("/v2")
    async def server(self) -> Response[ServerReply]:
        """What answers here."""
        return Response(ServerReply(SERVER_NAME, software_version(), list(EXTENSIONS)))

    @get(_versioned(""))
    async def metadata(
        self, request: AnyRequest, service: NamedDependency[Service]
    ) -> Response[ModelReply]:
        """A model's inputs and outputs."""
        found = _named(request, service)
        inputs, outputs = ([_tensor(t) for t in end] for end in (found.inputs, found.outputs))
        return Response(ModelReply(found.name, [VERSION], PLATFORM, inputs, outputs))

    @get(_versioned("/ready"))
    async def ready(
        self, request: AnyRequest, service: NamedDependency[Service]
    ) -> Response[bytes]:
        """Empty 200 while the model should be asked."""
        _named(request, service)
        if service.stopping:
            raise ModelClosed
        return Response(b"", media_type="text/plain")

    @get(_versioned("/config"))
    async def config(
        self, request: AnyRequest, service: NamedDependency[Service]
    ) -> Response[ConfigReply]:
        """A model's configuration."""
        found = _named(request, service)
        return Response(
            ConfigReply(
                name=found.name,
                platform=PLATFORM,
                backend=PLATFORM,
                max_batch_size=found.limit.texts,
                input=[_config_tensor(t) for t in found.inputs],
                output=[_config_tensor(t) for t in found.outputs],
                dynamic_batching={},
            )
        )

    @get(_versioned("/stats"))
    async def stats(
        self, request: AnyRequest, service: NamedDependency[Service]
    ) -> Response[StatisticsReply]:
        """A model's counters."""
        return Response(StatisticsReply([_statistics(_named(request, service))]))

    @get("/v2/models/stats")
    async def all_stats(self, service: NamedDependency[Service]) -> Response[StatisticsReply]:
        """The counters of all models."""
        return Response(StatisticsReply([_statistics(model) for model in all_models(service)]))

    @post("/v2/repository/index", status_code=200)
    async def index(
        self, request: AnyRequest, service: NamedDependency[Service]
    ) -> Response[list[IndexEntry]]:
        """The models of the repository: all are ready, or none is."""
        exchange = Exchange(request, service)
        if body := await exchange.body():
            exchange.decode(_INDEX_DECODER, body)
        models = all_models(service)
        return Response([IndexEntry(model.name, VERSION, "READY", "") for model in models])

    @post("/v2/repository/models/{model:str}/load", status_code=200)
    async def load(self, request: AnyRequest, service: NamedDependency[Service]) -> Response[bytes]:
        """Put what lies in the model's directory now in its place."""
        exchange = Exchange(request, service)
        if body := await exchange.body():
            exchange.decode(_LOAD_DECODER, body)
        await reload(service, _named(request, service))
        return Response(b"", media_type="text/plain")

    @post("/v2/repository/models/{model:str}/unload")
    async def unload(self) -> None:
        """Refused."""
        raise NotManaged("models unload when the server stops")

    @post(_versioned("/infer"), status_code=200)
    async def infer(
        self,
        request: AnyRequest,
        service: NamedDependency[Service],
    ) -> Response[bytes]:
        """Rank or embed."""
        exchange = Exchange(request, service)
        body = await exchange.body()
        found = _named(request, service)
        head, raw = _split(body, request.headers.get(_HEADER_LENGTH))
        asked = exchange.decode(_DECODER, head)
        wanted = (Wanted(o.name, o.parameters or {}) for o in asked.outputs or ())
        tensors = _tensors(asked, raw, found.limit)
        outputs = await infer(exchange, found, tensors, asked.parameters or {}, wanted)
        write = partial(_encode, asked, found, outputs)
        many = sum(output.values.size for output in outputs) > MANY_NUMBERS
        reply, headers = await asyncio.to_thread(write) if many else write()
        return exchange.reply(
            reply, media_type=_BINARY if headers else "application/json", headers=headers
        )


# Documentation
_RANK_EXAMPLE = {
    "inputs": [
        {"name": "query", "shape": [1, 1], "datatype": "BYTES", "data": ["What is ML?"]},
        {"name": "passage", "shape": [2, 1], "datatype": "BYTES", "data": ["one", "two"]},
    ],
    "parameters": {"truncate": "END"},
}
_RANK_REPLY = {
    "model_name": "nvidia_llama_nemotron_rerank_1b_v2",
    "model_version": VERSION,
    "outputs": [
        {"name": "index", "datatype": "INT32", "shape": [2, 1], "data": [0, 1]},
        {"name": "logit", "datatype": "FP32", "shape": [2, 1], "data": [0.47, -0.65]},
        {"name": "token_count", "datatype": "INT32", "shape": [2], "data": [12, 12]},
    ],
}
_SERVER_REPLY = {
    "name": SERVER_NAME,
    "version": "0.1.0",
    "extensions": list(EXTENSIONS),
}
_METADATA_REPLY = {
    "name": "nvidia_llama_nemotron_embed_1b_v2",
    "versions": [VERSION],
    "platform": PLATFORM,
    "inputs": [{"name": "text", "datatype": "BYTES", "shape": [-1, 1]}],
    "outputs": [
        {"name": "token_count", "datatype": "INT32", "shape": [-1]},
        {"name": "embeddings", "datatype": "FP32", "shape": [-1, 2048]},
    ],
}
_CONFIG_REPLY = {
    "name": "nvidia_llama_nemotron_embed_1b_v2",
    "platform": PLATFORM,
    "backend": PLATFORM,
    "max_batch_size": 30,
    "input": [{"name": "text", "data_type": "TYPE_STRING", "dims": [1]}],
    "output": [
        {"name": "token_count", "data_type": "TYPE_INT32", "dims": []},
        {"name": "embeddings", "data_type": "TYPE_FP32", "dims": [2048]},
    ],
    "dynamic_batching": {},
}
_STATISTICS_REPLY = {
    "model_stats": [
        {
            "name": "nvidia_llama_nemotron_rerank_1b_v2",
            "version": VERSION,
            "last_inference": 1700000000000,
            "inference_count": 24,
            "execution_count": 3,
            "inference_stats": {"success": {"count": 24, "ns": 480000000}},
            "batch_stats": [],
            "memory_usage": [],
        }
    ]
}
_INDEX_REPLY = [
    {
        "name": "nvidia_llama_nemotron_rerank_1b_v2",
        "version": VERSION,
        "state": "READY",
        "reason": "",
    }
]
_MODEL = {"model": "nvidia_llama_nemotron_rerank_1b_v2"}
_MODEL_STATUSES = (404, 503)


def _operation(method: str, path: str, summary: str, **told: Any) -> Operation:
    return Operation(
        method=method, path=path, tag="KServe v2", summary=summary, error=KserveError, **told
    )


def _of_a_model(method: str, tail: str, summary: str, **told: Any) -> list[Operation]:
    told.setdefault("statuses", _MODEL_STATUSES)
    plain, versioned = f"/v2/models/{{model}}{tail}", f"/v2/models/{{model}}/versions/{{v}}{tail}"
    return [
        _operation(method, plain, summary, parameters=_MODEL, **told),
        _operation(
            method,
            versioned,
            f"{summary}, by version",
            parameters={**_MODEL, "v": VERSION},
            **told,
        ),
    ]


def _refused(path: str, summary: str) -> Operation:
    return _operation("POST", path, summary, parameters=_MODEL, statuses=(400,), answers=False)


SURFACE = Surface(
    controllers=(KserveRoutes,),
    operations=(
        _operation(
            "GET", "/v2", "What answers here", reply=ServerReply, reply_example=_SERVER_REPLY
        ),
        *_of_a_model(
            "GET",
            "",
            "A model's inputs and outputs",
            reply=ModelReply,
            reply_example=_METADATA_REPLY,
        ),
        *_of_a_model("GET", "/ready", "Whether a model is ready"),
        *_of_a_model(
            "GET",
            "/config",
            "A model's configuration",
            reply=ConfigReply,
            reply_example=_CONFIG_REPLY,
        ),
        *_of_a_model(
            "GET",
            "/stats",
            "A model's counters",
            reply=StatisticsReply,
            reply_example=_STATISTICS_REPLY,
        ),
        *_of_a_model(
            "POST",
            "/infer",
            "Rank or embed",
            description=(
                "Outputs keep the order of the rows. With the header "
                "Inference-Header-Content-Length raw tensors follow the JSON (Triton's binary "
                "tensor data extension)."
            ),
            request=InferRequest,
            request_example=_RANK_EXAMPLE,
            reply=InferReply,
            reply_example=_RANK_REPLY,
            statuses=STATUSES,
        ),
        _operation(
            "GET",
            "/v2/models/stats",
            "The counters of all models",
            reply=StatisticsReply,
            reply_example=_STATISTICS_REPLY,
            statuses=(503,),
        ),
        _operation(
            "POST",
            "/v2/repository/index",
            "The models of the repository",
            request=IndexRequest,
            request_example={"ready": True},
            reply=list[IndexEntry],
            reply_example=_INDEX_REPLY,
            statuses=(400, 408, 413, 415, 503),
        ),
        _operation(
            "POST",
            "/v2/repository/models/{model}/load",
            "Load what lies in the model's directory now",
            description=(
                "Allowed with a key, or with RERANK_MODEL_CONTROL. The new model must prove itself "
                "before it takes the place of the one before."
            ),
            parameters=_MODEL,
            request=LoadRequest,
            request_example={},
            statuses=(400, 404, 408, 413, 415, 503),
        ),
        _refused("/v2/repository/models/{model}/unload", "Refused: models unload at the end"),
    ),
    voice=voice,
    paths=("/v2", "/v2/"),
)
