"""NIM's ranking surface: POST /v1/ranking and the paths of NVIDIA's hosted service.

Shapes as in NIM 1.10.0 and as its clients need them: langchain-nvidia-ai-endpoints 1.5.0,
llama-index-postprocessor-nvidia-rerank 0.7.0, nvidia-haystack 3.0.0, litellm 1.110.2,
nv-ingest-client 26.3.0, Elasticsearch (which refuses any additional key in a ranking).
Images are those of the vision NIMs, 1.11.0 and newer.
"""

import msgspec
from litestar import Response, post
from litestar.di import NamedDependency
from msgspec import UNSET, UnsetType

from runtime.requests import RankRequest
from server.call import Field
from server.errors import InvalidRequest, UnknownModel
from server.exchange import Exchange
from server.fields import one_of
from server.images import SentImage
from server.nim_error import error_body
from server.surface import Surface
from server.surfaces.truncation import TRUNCATES, Truncation
from server.surfaces.usage import Usage, usage_of

_QUERY = Field("query", inside=("text",), alone=True)
_PASSAGES = Field("passages", inside=("text",))


# Request. Unknown fields are ignored: litellm sends top_k.
class Text(msgspec.Struct):
    """A query or passage. A passage for a vision model may have an `image` instead of a text, or
    beside it: a data URL in base64, or base64 alone, of PNG, JPEG, WebP, GIF, BMP or TIFF."""

    text: str | UnsetType = UNSET
    image: str | None = None


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


def _text(text: Text, location: tuple[str | int, ...]) -> str:
    """The text, which may be missing beside an image. Raises InvalidRequest."""
    if isinstance(text.text, str):
        return text.text
    if text.image is None:
        raise InvalidRequest("missing", (*location, "text"), "wanted the field `text`")
    return ""


def _query(query: Text) -> str:
    if query.image is not None:
        message = "a query is text; images are taken as passages"
        raise InvalidRequest("value_error", ("query", "image"), message)
    return _text(query, ("query",))


def _images(passages: list[Text]) -> dict[int, SentImage]:
    return {
        index: SentImage(passage.image, ("passages", index, "image"))
        for index, passage in enumerate(passages)
        if passage.image is not None
    }


# Route
@post(
    [
        "/v1/ranking",
        "/v1/retrieval/nvidia/reranking",
        "/v1/retrieval/{org:str}/{model:str}/reranking",
    ],
    status_code=200,
    tags=["NIM"],
    body=RankingRequest,
)
async def rank(exchange: NamedDependency[Exchange]) -> Response[RankingReply]:
    """Rank passages for a query.

    Passages by descending logit; of a vision model they may have images. Headers:
    x-truncated-passages when any was cut. The paths below /v1/retrieval are those of NVIDIA's
    hosted service; the older one is without a model.
    """
    payload = await exchange.json(_DECODER)
    served = exchange.service.served("rank")
    in_path = exchange.request.path_params
    path_model = f"{in_path['org']}/{in_path['model']}" if in_path else None
    for name in (path_model, payload.model):
        if name is not None and name not in served.accepted_names:
            raise UnknownModel(served.name)
    exchange.check_count("rank", len(payload.passages), _PASSAGES)
    query = _query(payload.query)
    texts = [_text(p, ("passages", index)) for index, p in enumerate(payload.passages)]
    images = _images(payload.passages)
    # START is in NVIDIA's recipe, not in its docs.
    truncate = one_of(payload.truncate, TRUNCATES, "truncate") or "NONE"
    passages, at = await exchange.passages("rank", texts, images, _PASSAGES)
    asked = RankRequest(query, passages, truncate=truncate)
    ranking = await exchange.rank(asked, query_at=_QUERY, passages_at=at)
    logits = ranking.logits.tolist()
    rankings = [Ranked(index, logits[index]) for index in ranking.order.tolist()]
    return exchange.reply(RankingReply(rankings, usage_of(ranking)))


SURFACE = Surface(
    controllers=(rank,), error_format=error_body, paths=("/v1/ranking", "/v1/retrieval/")
)
