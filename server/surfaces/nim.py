"""NIM's ranking surface: POST /v1/ranking and the paths of NVIDIA's hosted service.

Shapes as in NIM 1.10.0 and as its clients need them: langchain-nvidia-ai-endpoints 1.5.0,
llama-index-postprocessor-nvidia-rerank 0.7.0, nvidia-haystack 3.0.0, litellm 1.95.1,
nv-ingest-client 26.3.0, Elasticsearch (which refuses any additional key in a ranking).
"""

from typing import Any

import msgspec
from litestar import Controller, Response, post
from litestar.di import NamedDependency
from litestar.params import FromPath
from msgspec import UNSET, UnsetType

from runtime.postprocess import Ranking
from runtime.requests import RankRequest, Truncate
from server.call import Field
from server.errors import AnyRequest, InvalidRequest, UnknownModel
from server.exchange import Exchange
from server.fields import one_of
from server.nim_error import NimError, error_body
from server.openapi import Operation
from server.service import Service
from server.surface import Surface
from server.surfaces.truncation import TRUNCATES, Truncation
from server.surfaces.usage import Usage, usage_of

_QUERY = Field("query", inside=("text",), alone=True)
_PASSAGES = Field("passages", inside=("text",))


# Request. Unknown fields are ignored: litellm sends top_k.
class Text(msgspec.Struct):
    """A query or passage. `image` exists for vision models only."""

    text: str | UnsetType = UNSET
    image: Any = None


class RankingRequest(msgspec.Struct):
    """The body of a ranking request; null means a field's default (Haystack sends it)."""

    query: Text
    passages: list[Text]
    model: str | None = None
    truncate: Truncation | None = None


# Reply
class Ranked(msgspec.Struct):
    """One passage: its index in the request and its raw logit."""

    index: int
    logit: float


class RankingReply(msgspec.Struct):
    """All passages by descending logit. There is no `model` key, as in NIM 1.10.0."""

    rankings: list[Ranked]
    usage: Usage


# Mapping
_DECODER = msgspec.json.Decoder(RankingRequest)
_ENCODER = msgspec.json.Encoder()


def texts_of(request: RankingRequest) -> tuple[str, list[str]]:
    """Query and passages. Raises InvalidRequest for an image or a missing text."""
    query = _text(request.query, ("query",))
    passages = [_text(p, ("passages", index)) for index, p in enumerate(request.passages)]
    return query, passages


def truncate_of(request: RankingRequest) -> Truncate:
    """How texts that are too long are truncated. START is in NVIDIA's recipe, not in its docs."""
    return one_of(request.truncate, TRUNCATES, "truncate") or "NONE"


def encode(ranking: Ranking) -> bytes:
    """The reply's bytes."""
    logits = ranking.logits.tolist()
    rankings = [Ranked(index, logits[index]) for index in ranking.order.tolist()]
    return _ENCODER.encode(RankingReply(rankings, usage_of(ranking)))


def _text(text: Text, location: tuple[str | int, ...]) -> str:
    if text.image is not None:
        raise InvalidRequest(
            "value_error", (*location, "image"), "this model ranks text, not images"
        )
    if isinstance(text.text, UnsetType):
        raise InvalidRequest("missing", (*location, "text"), "wanted the field `text`")
    return text.text


# Controller
class NimRanking(Controller):
    """The three paths of one operation."""

    @post(["/v1/ranking", "/v1/retrieval/nvidia/reranking"], status_code=200)
    async def rank(self, request: AnyRequest, service: NamedDependency[Service]) -> Response[bytes]:
        """Rank passages for a query."""
        return await _rank(request, service, None)

    @post("/v1/retrieval/{org:str}/{model:str}/reranking", status_code=200)
    async def rank_with(
        self,
        request: AnyRequest,
        service: NamedDependency[Service],
        org: FromPath[str],
        model: FromPath[str],
    ) -> Response[bytes]:
        """The same with the model in the path, as in litellm and the hosted service."""
        return await _rank(request, service, f"{org}/{model}")


async def _rank(request: AnyRequest, service: Service, path_model: str | None) -> Response[bytes]:
    exchange = Exchange(request, service)
    payload = await exchange.json(_DECODER)
    served = service.served("rank")
    for name in (path_model, payload.model):
        if name is not None and name not in served.accepted_names:
            raise UnknownModel(served.name)
    exchange.check_count("rank", len(payload.passages), _PASSAGES)
    query, passages = texts_of(payload)
    asked = RankRequest(query, passages, truncate=truncate_of(payload))
    ranking = await exchange.rank(asked, query_at=_QUERY, passages_at=_PASSAGES)
    return exchange.reply(encode(ranking))


# Documentation
_REQUEST = {
    "model": "nvidia/llama-nemotron-rerank-1b-v2",
    "query": {"text": "which way should i go?"},
    "passages": [
        {"text": "two roads diverged in a yellow wood"},
        {"text": "then took the other, as just as fair"},
    ],
    "truncate": "END",
}
_REPLY = {
    "rankings": [{"index": 0, "logit": 0.47}, {"index": 1, "logit": -0.65}],
    "usage": {"prompt_tokens": 42, "total_tokens": 42},
}
STATUSES = (400, 404, 408, 413, 415, 422, 429, 500, 503, 504)


def _operation(path: str, summary: str, **parameters: str) -> Operation:
    return Operation(
        method="POST",
        path=path,
        tag="NIM",
        summary=summary,
        description="Passages by descending logit. Headers: x-truncated-passages when any was cut.",
        request=RankingRequest,
        request_example=_REQUEST,
        reply=RankingReply,
        reply_example=_REPLY,
        error=NimError,
        statuses=STATUSES,
        parameters=parameters,
    )


SURFACE = Surface(
    controllers=(NimRanking,),
    operations=(
        _operation("/v1/ranking", "Rank passages for a query"),
        _operation("/v1/retrieval/nvidia/reranking", "Rank: the hosted service's older path"),
        _operation(
            "/v1/retrieval/{org}/{model}/reranking",
            "Rank: the hosted service's path",
            org="nvidia",
            model="llama-3_2-nv-rerankqa-1b-v2",
        ),
    ),
    error_format=error_body,
    paths=("/v1/ranking", "/v1/retrieval/"),
)
