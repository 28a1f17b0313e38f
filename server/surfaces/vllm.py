"""POST /score and /v1/score: vLLM's scores of text pairs.

Shapes as in vLLM's pooling entrypoints: 1:1, 1:N and N:N, in four spellings.
"""

import time
from itertools import chain
from typing import Annotated, Any

import msgspec
from litestar import Response, post
from litestar.di import NamedDependency

from runtime.requests import RankRequest
from server.call import Field, listed
from server.errors import ErrorBody, Failure, InvalidRequest
from server.exchange import Exchange
from server.lax import lax_decoder
from server.surface import Surface
from server.surfaces.cohere import ErrorDetail, error_type, id_of
from server.surfaces.documents import documents_of
from server.surfaces.parts import refuse_settings
from server.surfaces.pooling import PoolingFields, cut_of, wants_logits
from server.surfaces.usage import Usage, usage_of

Text = str | dict[str, Any]
Texts = Text | list[Text]


# Request. `model` is ignored, and so are unknown fields.
class ScoreRequest(PoolingFields, kw_only=True):
    """Two sides, each a text or a list: text_1 and text_2, queries and documents, queries and
    items, or data_1 and data_2. A text may be an object with a `content` of parts, which on the
    second side may be an image."""

    text_1: Texts | None = None
    text_2: Texts | None = None
    queries: Texts | None = None
    documents: Texts | None = None
    items: Texts | None = None
    data_1: Texts | None = None
    data_2: Texts | None = None


_SPELLINGS = (
    ("text_1", "text_2"),
    ("queries", "documents"),
    ("queries", "items"),
    ("data_1", "data_2"),
)


# Reply
class Score(msgspec.Struct):
    """One pair's score: the logit's sigmoid, the other activation that the model was saved with, or
    the logit."""

    index: int
    score: float
    object: str = "score"


class ScoreReply(msgspec.Struct):
    """Scores in the order of the pairs; `created` in seconds since 1970."""

    id: str
    created: int
    model: str
    data: list[Score]
    usage: Usage
    object: str = "list"


# Mapping
_DECODER = lax_decoder(ScoreRequest)


def _sides(payload: ScoreRequest) -> tuple[tuple[str, Texts], tuple[str, Texts]]:
    """Both sides of the pairs, with the names of their fields."""
    names = dict.fromkeys(chain(*_SPELLINGS))
    given = {name: found for name in names if (found := getattr(payload, name)) is not None}
    for first, second in _SPELLINGS:
        if given.keys() >= {first, second}:
            if others := [name for name in given if name not in (first, second)]:
                message = f"found it beside {first} and {second}, wanted one pair of fields"
                raise InvalidRequest("value_error", (others[0],), message)
            return (first, given[first]), (second, given[second])
    first, second = next((pair for pair in _SPELLINGS if given.keys() & set(pair)), _SPELLINGS[0])
    missing = second if first in given else first
    raise InvalidRequest("missing", (missing,), f"wanted the field `{missing}`")


def _queries(given: list[Text], at: Field) -> list[str]:
    """The texts of the first side. Raises InvalidRequest for an image."""
    texts, images = documents_of(given, at)
    for image in images.values():
        message = "a query is text; images are taken on the other side"
        raise InvalidRequest("value_error", image.place, message)
    return texts


# Error body
class ScoreError(msgspec.Struct):
    """vLLM's error body."""

    error: ErrorDetail


def error_body(failure: Failure) -> Annotated[ErrorBody, ScoreError]:
    """vLLM's error body, for scores."""
    detail = ErrorDetail(failure.message, error_type(failure), failure.status)
    return ErrorBody(failure.status, msgspec.json.encode(ScoreError(detail)))


# Route
@post(["/score", "/v1/score"], status_code=200, tags=["Rerank dialects"], body=ScoreRequest)
async def score(exchange: NamedDependency[Exchange]) -> Response[ScoreReply]:
    """Score pairs of texts as vLLM does."""
    payload = await exchange.json(_DECODER)
    served = exchange.service.served("rank")
    (first, one), (second, two) = _sides(payload)
    (ones, query_at), (twos, at) = listed(first, one), listed(second, two)
    exchange.check_count("rank", len(twos), at)
    if len(ones) not in (1, len(twos)):
        message = f"found {len(ones)} and {len(twos)} texts, wanted one, or as many of both"
        raise InvalidRequest("value_error", (second,), message)
    queries = _queries(ones, query_at)
    texts, images = documents_of(twos, at)
    wants_logits(payload)  # refuses contradicting fields before anything is scored
    truncate, limits = cut_of(payload, served.model.info.max_tokens)
    if images:
        refuse_settings(mm_processor_kwargs=payload.mm_processor_kwargs)
    passages, at = await exchange.passages("rank", texts, images, at)
    query = queries[0] if len(queries) == 1 else queries
    ranking = await exchange.rank(
        RankRequest(
            query,
            passages,
            payload.instruction,
            truncate=truncate,
            limits=limits,
            blanks=True,
        ),
        query_at=query_at,
        passages_at=at,
    )
    scores = ranking.logits if wants_logits(payload) else ranking.relevance()
    data = [Score(index, score) for index, score in enumerate(scores.tolist())]
    usage, answer_id = usage_of(ranking), id_of(payload.request_id)
    reply = ScoreReply(answer_id, int(time.time()), served.name, data, usage)
    return exchange.reply(reply)


SURFACE = Surface(controllers=(score,), error_format=error_body, paths=("/score", "/v1/score"))
