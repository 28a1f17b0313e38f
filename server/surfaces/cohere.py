"""POST /v1/rerank (Cohere v1, Jina, vLLM, Infinity: one superset reply) and /v2/rerank (Cohere's
alone).

Shapes as in cohere 7.3, Jina's API, vLLM's and Infinity's servers. Cohere and Jina truncate
documents that are too long, so END is the default here, except for vLLM's bodies. The header
x-truncated-passages has the number of truncated documents.
"""

import math
import uuid
from collections.abc import Sequence
from typing import Annotated

import msgspec
from litestar import Response, post
from litestar.di import NamedDependency
from msgspec import Meta

from runtime.requests import RankRequest, TokenLimits
from server.errors import ErrorBody, Failure, InvalidRequest
from server.exchange import Exchange
from server.lax import StrictPositive, lax_decoder
from server.surface import Surface
from server.surfaces.documents import (
    RerankRequest,
    Result,
    check_least,
    rank_documents,
    results_of,
    top_results,
)
from server.surfaces.usage import Usage, usage_of

# Cohere's search unit is one query with up to so many documents.
_UNIT_DOCUMENTS = 100


# Request. `model` is ignored, and so are unknown fields.
class RelevantSpans(msgspec.Struct):
    """Cohere v2's request for the relevant parts of a document, which is not supported."""

    mode: Annotated[str, Meta(extra_json_schema={"const": "disabled"})]


class NotInV2(msgspec.Struct):
    """Fields of v1 and of other servers that change answers there. Cohere's v2 does not have them;
    they are refused rather than ignored."""

    truncate: None = None
    truncation: None = None
    max_query_length: None = None
    max_doc_length: None = None
    max_chunks_per_doc: None = None
    return_embeddings: None = None
    raw_scores: None = None
    truncate_prompt_tokens: None = None
    truncation_side: None = None
    max_tokens_per_query: None = None
    use_activation: None = None
    activation: None = None
    softmax: None = None
    request_id: None = None
    padding: None = None
    instruction: None = None
    chat_template_kwargs: None = None


class RerankV2(NotInV2, kw_only=True):
    """Cohere v2's body. `priority` has no effect, because fair queueing orders requests. Nor have
    `rank_fields` and `return_documents`, which litellm sends: documents are texts, and are not
    returned."""

    query: str
    documents: Annotated[list[str], Meta(extra_json_schema={"minItems": 1})]
    model: str | None = None
    top_n: StrictPositive | None = None
    max_tokens_per_doc: StrictPositive | None = None
    relevant_spans: RelevantSpans | None = None
    priority: int | None = None


# Reply
class ResultV2(msgspec.Struct):
    """One document. `relevance_score` is the logit's sigmoid, or the other activation that the
    model was saved with."""

    index: int
    relevance_score: float


class ApiVersion(msgspec.Struct):
    """The API that the reply follows."""

    version: str


class BilledUnits(msgspec.Struct):
    """Cohere's search units; nothing is billed here."""

    search_units: int


class CohereMeta(msgspec.Struct):
    """Cohere's `meta`."""

    api_version: ApiVersion
    billed_units: BilledUnits


class ReplyV1(msgspec.Struct):
    """The superset: Cohere reads id, results and meta, Jina and vLLM model, usage and results."""

    id: str
    model: str
    usage: Usage
    meta: CohereMeta
    results: list[Result]


class ReplyV2(msgspec.Struct):
    """Cohere v2's reply."""

    id: str
    results: list[ResultV2]
    meta: CohereMeta


# Mapping
_V1 = lax_decoder(RerankRequest)
_V2 = msgspec.json.Decoder(RerankV2)


def id_of(request_id: str | None) -> str:
    """The id of a reply: the request's own, or a new one."""
    return request_id or uuid.uuid4().hex


def _meta(version: str, documents: Sequence[object]) -> CohereMeta:
    units = math.ceil(len(documents) / _UNIT_DOCUMENTS)
    return CohereMeta(ApiVersion(version), BilledUnits(units))


def _check_v2(payload: RerankV2) -> None:
    check_least("top_n", payload.top_n, 1)
    check_least("max_tokens_per_doc", payload.max_tokens_per_doc, 1)
    if payload.relevant_spans is not None and payload.relevant_spans.mode != "disabled":
        message = "this server returns no spans; leave it out, or send the mode disabled"
        raise InvalidRequest("value_error", ("relevant_spans", "mode"), message)


# Error body
class ErrorDetail(msgspec.Struct):
    """vLLM's error object."""

    message: str
    type: str
    code: int


class RerankError(msgspec.Struct):
    """One body for three families: Cohere reads `message`, Jina `detail`, vLLM `error`."""

    message: str
    detail: str
    error: ErrorDetail


class CohereError(msgspec.Struct):
    """Cohere's error body."""

    message: str


def error_type(failure: Failure) -> str:
    """vLLM's error type of a failure."""
    types = {404: "NotFoundError", 401: "AuthenticationError", 503: "ServiceUnavailableError"}
    return types.get(failure.status, "BadRequestError" if failure.status < 500 else "InternalError")


def error_body(failure: Failure) -> Annotated[ErrorBody, RerankError]:
    """The superset error body."""
    detail = ErrorDetail(failure.message, error_type(failure), failure.status)
    return ErrorBody(
        failure.status, msgspec.json.encode(RerankError(failure.message, failure.message, detail))
    )


def error_body_v2(failure: Failure) -> Annotated[ErrorBody, CohereError]:
    """Cohere's error body."""
    return ErrorBody(failure.status, msgspec.json.encode(CohereError(failure.message)))


# Routes
@post("/v1/rerank", status_code=200, tags=["Rerank dialects"], body=RerankRequest)
async def rerank_v1(exchange: NamedDependency[Exchange]) -> Response[ReplyV1]:
    """Rerank as Cohere v1, Jina, vLLM and Infinity do.

    `document` is left out with return_documents: false. A body with `raw_scores` is Infinity's:
    `document` is a text then, with return_documents: true.
    """
    payload = await exchange.json(_V1)
    ranked = await rank_documents(exchange, payload, "END")
    results = results_of(ranked, payload, plain=False)
    usage, meta = usage_of(ranked.ranking), _meta("1", ranked.texts)
    reply = ReplyV1(id_of(payload.request_id), ranked.model, usage, meta, results)
    return exchange.reply(reply)


@post("/v2/rerank", status_code=200, tags=["Rerank dialects"], body=RerankV2)
async def rerank_v2(exchange: NamedDependency[Exchange]) -> Response[ReplyV2]:
    """Rerank as Cohere v2 does.

    Fields of v1 and of other servers that would change an answer are refused; they may be null.
    """
    payload = await exchange.json(_V2)
    _check_v2(payload)
    limits = TokenLimits(passage=payload.max_tokens_per_doc)
    ranking = await exchange.rank(
        RankRequest(payload.query, payload.documents, truncate="END", limits=limits)
    )
    scores, top = ranking.relevance(), top_results(ranking.order.tolist(), payload.top_n)
    results = [ResultV2(i, float(scores[i])) for i in top]
    return exchange.reply(ReplyV2(id_of(None), results, _meta("2", payload.documents)))


SURFACES = (
    Surface(controllers=(rerank_v1,), error_format=error_body, paths=("/v1/rerank",)),
    Surface(controllers=(rerank_v2,), error_format=error_body_v2, paths=("/v2/rerank",)),
)
