"""KServe v2 over HTTP: /v2 and all routes below it except health (server.health).

The Open Inference Protocol's REST form, with Triton's configuration, statistics, repository and
binary tensor data extensions. Triton's client library 2.73 and the kserve SDK 0.20 work unchanged.
"""

import asyncio
from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Annotated

import msgspec
from litestar import Controller, HttpMethod, Response, get, post, route
from litestar.di import NamedDependency

from runtime.errors import InputTooLong, ModelClosed
from runtime.version import version as software_version
from server.errors import ErrorBody, Failure, NotReady, UnknownModel
from server.exchange import MANY_NUMBERS, Exchange
from server.kserve.inference import infer
from server.kserve.model_control import ModelControlRefused, reload
from server.kserve.models import (
    EXTENSIONS,
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
    raw_outputs,
    read_tensors,
    split_body,
    write_reply,
)
from server.kserve.tensors import TextTensor, elements_of
from server.names import TRITON_VERSION
from server.service import Service
from server.surface import Surface

# The most inputs that are unpacked, including one that is then refused.
_MOST_INPUTS = 4
_BINARY = "application/octet-stream"
_DECODER = msgspec.json.Decoder(InferRequest)
_LOAD_DECODER = msgspec.json.Decoder(LoadRequest)
_INDEX_DECODER = msgspec.json.Decoder(IndexRequest)


# Error body
class KserveError(msgspec.Struct):
    """KServe's error body."""

    error: str


def error_body(failure: Failure) -> Annotated[ErrorBody, KserveError]:
    """KServe's error body; a text that is too long (422) gets status 400 here."""
    status = 400 if issubclass(failure.kind, InputTooLong) else failure.status
    return ErrorBody(status, msgspec.json.encode(KserveError(failure.message)))


# Controller
# What a route may raise that looks up the model in its path.
_ABSENCE = (UnknownModel, NotReady)


def _versioned(tail: str) -> list[str]:
    return [f"/v2/models/{{model:str}}{tail}", f"/v2/models/{{model:str}}/versions/{{v:str}}{tail}"]


def _named(exchange: Exchange) -> KserveModel:
    """The model in the path; only some paths have a version."""
    in_path = exchange.request.path_params
    return find(exchange.service, in_path["model"], in_path.get("v"))


async def _read(
    exchange: Exchange,
) -> tuple[KserveModel, InferRequest, Iterator[TextTensor]]:
    """The model, the request and its inputs. The body is freed once the inputs are consumed."""
    body = await exchange.body()
    found = _named(exchange)
    head, raw = split_body(body, exchange.request.headers.get(HEADER_LENGTH))
    payload = await exchange.decode(_DECODER, head)
    raw_outputs(payload)  # refuses wrong flags before the model is asked
    # One text more than allowed is unpacked before a tensor is refused.
    most = _MOST_INPUTS * (found.limit.texts + 1)
    await exchange.reserve_raw(raw, islice(elements_of(raw), most))
    return found, payload, read_tensors(payload, raw, found.limit)


class KserveRoutes(Controller):
    """KServe's routes; those of a model exist with and without a version in the path."""

    tags = ("KServe v2",)

    @get("/v2")
    async def server(self) -> Response[ServerReply]:
        """What answers here."""
        return Response(ServerReply(SERVER_NAME, software_version(), list(EXTENSIONS)))

    @get(_versioned(""), errors=_ABSENCE)
    async def metadata(self, exchange: NamedDependency[Exchange]) -> Response[ModelReply]:
        """A model's inputs and outputs."""
        return Response(_named(exchange).metadata())

    @route(_versioned("/ready"), http_method=[HttpMethod.GET, HttpMethod.HEAD], errors=_ABSENCE)
    async def ready(self, exchange: NamedDependency[Exchange]) -> Response[ModelReadyReply]:
        """Whether a model is ready."""
        found = _named(exchange)
        if exchange.service.stopping:
            raise ModelClosed
        if not exchange.service.ready:
            raise NotReady
        return Response(ModelReadyReply(found.name, ready=True))

    @get(_versioned("/config"), errors=_ABSENCE)
    async def config(self, exchange: NamedDependency[Exchange]) -> Response[ConfigReply]:
        """A model's configuration."""
        return Response(_named(exchange).config())

    @get(_versioned("/stats"), errors=_ABSENCE)
    async def stats(self, exchange: NamedDependency[Exchange]) -> Response[StatisticsReply]:
        """A model's counters."""
        return Response(StatisticsReply([_named(exchange).statistics()]))

    @get("/v2/models/stats", errors=(NotReady,))
    async def all_stats(self, service: NamedDependency[Service]) -> Response[StatisticsReply]:
        """The counters of all models."""
        return Response(StatisticsReply([model.statistics() for model in all_models(service)]))

    @post("/v2/repository/index", status_code=200, body=IndexRequest, errors=(NotReady,))
    async def index(self, exchange: NamedDependency[Exchange]) -> Response[list[IndexEntry]]:
        """The models of the repository.

        All are ready, or none is.
        """
        if body := await exchange.body():
            await exchange.decode(_INDEX_DECODER, body)
        models = all_models(exchange.service)
        return Response([IndexEntry(model.name, TRITON_VERSION, "READY", "") for model in models])

    @post(
        "/v2/repository/models/{model:str}/load",
        status_code=200,
        media_type="text/plain",
        body=LoadRequest,
        errors=(ModelControlRefused, *_ABSENCE),
    )
    async def load(self, exchange: NamedDependency[Exchange]) -> Response[None]:
        """Load what lies in the model's directory now.

        Allowed with a key, or with RERANK_MODEL_CONTROL. The new model must prove itself before it
        takes the place of the one before.
        """
        if body := await exchange.body():
            await exchange.decode(_LOAD_DECODER, body)
        await reload(exchange.service, _named(exchange))
        return Response(None)

    @post("/v2/repository/models/{model:str}/unload", answers=(), errors=(ModelControlRefused,))
    async def unload(self) -> None:
        """Refused: models unload at the end."""
        raise ModelControlRefused("models unload when the server stops")

    @post(_versioned("/infer"), status_code=200, body=InferRequest)
    async def infer(self, exchange: NamedDependency[Exchange]) -> Response[InferReply]:
        """Rank or embed.

        Outputs keep the order of the rows. With the header Inference-Header-Content-Length raw
        tensors follow the JSON (Triton's binary tensor data extension).
        """
        found, payload, tensors = await _read(exchange)
        wanted = ((o.name, o.parameters or {}) for o in payload.outputs or ())
        outputs = await infer(exchange, found, tensors, payload.parameters or {}, wanted)
        write = partial(write_reply, payload, found, outputs)
        many = sum(output.values.size for output in outputs) > MANY_NUMBERS
        reply, headers = await asyncio.to_thread(write) if many else write()
        return exchange.encoded_reply(
            reply, media_type=_BINARY if headers else "application/json", headers=headers
        )


SURFACE = Surface(controllers=(KserveRoutes,), error_format=error_body, paths=("/v2", "/v2/"))
