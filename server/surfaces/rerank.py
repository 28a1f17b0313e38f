"""POST /rerank, shared by four families: the simple request, vLLM's, Infinity's and TEI's.

A body with `documents` gets one superset reply: the open-data-reranker's results, the scores and
ranked_indices that `rerank_client` reads, vLLM's id, model and usage. The form of a result's
document depends on the family (`documents.results_of`). A body with `texts` gets TEI's list.
"""

from typing import Any

import msgspec
from litestar import Controller, Response, post
from litestar.di import NamedDependency
from msgspec import UNSET

from server.errors import AnyRequest, InvalidRequest
from server.exchange import Exchange
from server.json_body import converted
from server.openapi import Operation
from server.service import Service
from server.surface import Surface
from server.surfaces import tei
from server.surfaces.cohere import RerankError, error_body, id_of
from server.surfaces.documents import (
    RankedDocuments,
    RerankRequest,
    Result,
    rank_documents,
    results_of,
)
from server.surfaces.usage import Usage, usage_of


# Reply
class DocumentsReply(msgspec.Struct):
    """`scores` are raw logits in the order of the documents, `ranked_indices` all documents, best
    first; `top_n` shortens `results` only."""

    id: str
    model: str
    usage: Usage
    results: list[Result]
    scores: list[float]
    ranked_indices: list[int]


# Mapping
# The fields of both requests, of any type: which there are decides the family, and so the types.
_FIELDS = dict.fromkeys((*RerankRequest.__struct_fields__, *tei.TextsRequest.__struct_fields__))
_Body = msgspec.defstruct("_Body", [(name, Any, UNSET) for name in _FIELDS])
_DECODER = msgspec.json.Decoder(_Body)
_ENCODER = msgspec.json.Encoder()


def _encode(ranked: RankedDocuments, payload: RerankRequest, model: str) -> bytes:
    ranking = ranked.ranking
    return _ENCODER.encode(
        DocumentsReply(
            id_of(payload.request_id),
            model,
            usage_of(ranking),
            results_of(ranked, payload, plain=True),
            ranking.logits.tolist(),
            ranking.order.tolist(),
        )
    )


# Controller
class Rerank(Controller):
    """One path; the body decides the family."""

    @post("/rerank", status_code=200)
    async def rerank(
        self, request: AnyRequest, service: NamedDependency[Service]
    ) -> Response[bytes]:
        """Rerank documents, or texts."""
        exchange = Exchange(request, service)
        payload = await _read(exchange)
        if isinstance(payload, tei.TextsRequest):
            return await tei.rank_texts(exchange, payload)
        served = service.served("rank")
        ranked = await rank_documents(exchange, payload, served.model.info.max_tokens, "NONE")
        return exchange.reply(_encode(ranked, payload, served.name))


async def _read(exchange: Exchange) -> tei.TextsRequest | RerankRequest:
    """Read and decode the request; the body is freed afterwards. `model` is ignored, and so are
    unknown fields."""
    body = await exchange.json_body()
    try:
        decoded = msgspec.structs.asdict(await exchange.decode(_DECODER, body))
    except InvalidRequest:
        if b'"texts"' in body and b'"documents"' not in body:  # a guess for invalid JSON
            exchange.use_error_format(tei.error_body)
        raise
    found = {name: value for name, value in decoded.items() if value is not UNSET}
    if found.get("texts") is None:
        return converted(found, RerankRequest)
    if found.get("documents") is not None:
        message = "found `documents` and `texts`, wanted one of them"
        raise InvalidRequest("value_error", (), message)
    exchange.use_error_format(tei.error_body)
    return converted(found, tei.TextsRequest)


# Documentation
_REQUEST = {
    "query": "What is machine learning?",
    "documents": ["The weather is nice today", "Machine learning is a subset of AI"],
}
_REPLY: dict[str, Any] = {
    "id": "0f6b",
    "model": "nvidia/llama-nemotron-rerank-1b-v2",
    "usage": {"prompt_tokens": 30, "total_tokens": 30},
    "results": [
        {
            "index": 1,
            "relevance_score": 0.62,
            "document": "Machine learning is a subset of AI",
        },
        {"index": 0, "relevance_score": 0.21, "document": "The weather is nice today"},
    ],
    "scores": [-1.35, 0.47],
    "ranked_indices": [1, 0],
}

SURFACE = Surface(
    controllers=(Rerank,),
    operations=(
        Operation(
            method="POST",
            path="/rerank",
            tag="Rerank dialects",
            summary="Rerank documents, or texts as TEI does",
            description=(
                "With `documents`: results by descending relevance, scores and ranked_indices; "
                "`document` is a text, with return_documents true an object, with false left out. "
                "A body with a field of vLLM's alone, with `top_n: 0`, or with one text as "
                "`documents`, gets objects. One with `raw_scores` is Infinity's, and gets texts "
                "with return_documents true only. "
                "With `texts`: TEI's bare list and TEI's errors."
            ),
            request=(RerankRequest, tei.TextsRequest),
            request_example=_REQUEST,
            reply=(DocumentsReply, list[tei.Rank]),
            reply_example=_REPLY,
            error=(RerankError, tei.TeiError),
            statuses=(*tei.STATUSES, 504),
        ),
    ),
    error_format=error_body,
    paths=("/rerank",),
)
