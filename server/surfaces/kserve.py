"""KServe v2 over HTTP: /v2 and all routes below it except health (server.health).

The Open Inference Protocol's REST form, with Triton's configuration, statistics, repository and
binary tensor data extensions. Triton's client library 2.73 and the kserve SDK 0.20 work unchanged.
"""

import asyncio
from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Any

import msgspec
from litestar import Controller, HttpMethod, Response, get, post, route
from litestar.di import NamedDependency

from runtime.errors import ModelClosed
from runtime.version import version as software_version
from server.errors import AnyRequest, ErrorBody, Failure, NotReady
from server.exchange import MANY_NUMBERS, Exchange
from server.kserve.inference import Wanted, infer
from server.kserve.model_control import ModelControlRefused, reload
from server.kserve.models import (
    EXTENSIONS,
    PLATFORM,
    SERVER_NAME,
    ConfigReply,
    KserveModel,
    ModelReply,
    all_models,
    find,
)
from server.kserve.rest import (
    HEADER_LENGTH,
    IndexEntry,
    IndexRequest,
    InferReply,
    InferRequest,
    LoadRequest,
    ModelReadyReply,
    ServerReply,
    StatisticsReply,
    check_binary_flags,
    read_tensors,
    split_body,
    write_reply,
)
from server.kserve.tensors import TextTensor, elements_of
from server.names import TRITON_VERSION
from server.openapi import Operation
from server.service import Service
from server.surface import Surface
from server.surfaces.nim import STATUSES

# The most inputs that are unpacked, including one that is then refused.
_MOST_INPUTS = 3
_BINARY = "application/octet-stream"
_DECODER = msgspec.json.Decoder(InferRequest)
_LOAD_DECODER = msgspec.json.Decoder(LoadRequest)
_INDEX_DECODER = msgspec.json.Decoder(IndexRequest)


# Error body
class KserveError(msgspec.Struct):
    """KServe's error body."""

    error: str


def error_body(failure: Failure) -> ErrorBody:
    """KServe's error body; a text that is too long (422) gets status 400 here."""
    status = 400 if failure.status == 422 else failure.status
    return ErrorBody(status, msgspec.json.encode(KserveError(failure.message)))


# Controller
def _versioned(tail: str) -> list[str]:
    return [f"/v2/models/{{model:str}}{tail}", f"/v2/models/{{model:str}}/versions/{{v:str}}{tail}"]


def _named(request: AnyRequest, service: Service) -> KserveModel:
    """The model in the path; only some paths have a version."""
    return find(service, request.path_params["model"], request.path_params.get("v"))


async def _read(
    exchange: Exchange, request: AnyRequest
) -> tuple[KserveModel, InferRequest, Iterator[TextTensor]]:
    """The model, the request and its inputs. The body is freed once the inputs are consumed."""
    body = await exchange.body()
    found = _named(request, exchange.service)
    head, raw = split_body(body, request.headers.get(HEADER_LENGTH))
    payload = await exchange.decode(_DECODER, head)
    check_binary_flags(payload)
    # One text more than allowed is unpacked before a tensor is refused.
    most = _MOST_INPUTS * (found.limit.texts + 1)
    await exchange.reserve_raw(raw, islice(elements_of(raw), most))
    return found, payload, read_tensors(payload, raw, found.limit)


class KserveRoutes(Controller):
    """KServe's routes; those of a model exist with and without a version in the path."""

    @get("/v2")
    async def server(self) -> Response[ServerReply]:
        """The server's name and version."""
        return Response(ServerReply(SERVER_NAME, software_version(), list(EXTENSIONS)))

    @get(_versioned(""))
    async def metadata(
        self, request: AnyRequest, service: NamedDependency[Service]
    ) -> Response[ModelReply]:
        """A model's inputs and outputs."""
        return Response(_named(request, service).metadata())

    @route(_versioned("/ready"), http_method=[HttpMethod.GET, HttpMethod.HEAD])
    async def ready(
        self, request: AnyRequest, service: NamedDependency[Service]
    ) -> Response[ModelReadyReply]:
        """200 while the model is ready."""
        found = _named(request, service)
        if service.stopping:
            raise ModelClosed
        if not service.ready:
            raise NotReady
        return Response(ModelReadyReply(found.name, ready=True))

    @get(_versioned("/config"))
    async def config(
        self, request: AnyRequest, service: NamedDependency[Service]
    ) -> Response[ConfigReply]:
        """A model's configuration."""
        return Response(_named(request, service).config())

    @get(_versioned("/stats"))
    async def stats(
        self, request: AnyRequest, service: NamedDependency[Service]
    ) -> Response[StatisticsReply]:
        """A model's counters."""
        return Response(StatisticsReply([_named(request, service).statistics()]))

    @get("/v2/models/stats")
    async def all_stats(self, service: NamedDependency[Service]) -> Response[StatisticsReply]:
        """The counters of all models."""
        return Response(StatisticsReply([model.statistics() for model in all_models(service)]))

    @post("/v2/repository/index", status_code=200)
    async def index(
        self, request: AnyRequest, service: NamedDependency[Service]
    ) -> Response[list[IndexEntry]]:
        """The models of the repository; all are ready, or none is."""
        exchange = Exchange(request, service)
        if body := await exchange.body():
            await exchange.decode(_INDEX_DECODER, body)
        models = all_models(service)
        return Response([IndexEntry(model.name, TRITON_VERSION, "READY", "") for model in models])

    @post("/v2/repository/models/{model:str}/load", status_code=200)
    async def load(self, request: AnyRequest, service: NamedDependency[Service]) -> Response[bytes]:
        """Reload the model from its directory."""
        exchange = Exchange(request, service)
        if body := await exchange.body():
            await exchange.decode(_LOAD_DECODER, body)
        await reload(service, _named(request, service))
        return Response(b"", media_type="text/plain")

    @post("/v2/repository/models/{model:str}/unload")
    async def unload(self) -> None:
        """Refused."""
        raise ModelControlRefused("models unload when the server stops")

    @post(_versioned("/infer"), status_code=200)
    async def infer(
        self,
        request: AnyRequest,
        service: NamedDependency[Service],
    ) -> Response[bytes]:
        """Rank or embed."""
        exchange = Exchange(request, service)
        found, payload, tensors = await _read(exchange, request)
        wanted = (Wanted(o.name, o.parameters or {}) for o in payload.outputs or ())
        outputs = await infer(exchange, found, tensors, payload.parameters or {}, wanted)
        write = partial(write_reply, payload, found, outputs)
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
    "model_version": TRITON_VERSION,
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
    "versions": [TRITON_VERSION],
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
            "version": TRITON_VERSION,
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
        "version": TRITON_VERSION,
        "state": "READY",
        "reason": "",
    }
]
_MODEL = {"model": "nvidia_llama_nemotron_rerank_1b_v2"}
_MODEL_STATUSES = (404, 503)


def _operation(method: str, path: str, summary: str, **fields: Any) -> Operation:
    return Operation(
        method=method, path=path, tag="KServe v2", summary=summary, error=KserveError, **fields
    )


def _of_a_model(method: str, tail: str, summary: str, **fields: Any) -> list[Operation]:
    fields.setdefault("statuses", _MODEL_STATUSES)
    plain, versioned = f"/v2/models/{{model}}{tail}", f"/v2/models/{{model}}/versions/{{v}}{tail}"
    return [
        _operation(method, plain, summary, parameters=_MODEL, **fields),
        _operation(
            method,
            versioned,
            f"{summary}, by version",
            parameters={**_MODEL, "v": TRITON_VERSION},
            **fields,
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
        *_of_a_model(
            "GET",
            "/ready",
            "Whether a model is ready",
            reply=ModelReadyReply,
            reply_example={"name": "nvidia_llama_nemotron_rerank_1b_v2", "ready": True},
        ),
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
    error_format=error_body,
    paths=("/v2", "/v2/"),
)
