"""POST /rerank, which three families share: the simple one, vLLM's, and TEI's.

`documents` gets one answer for all who send them: the open-data-reranker's results, the scores and
ranked_indices that `rerank_client` reads, vLLM's id, model and usage. `texts` gets TEI's list.
"""

from typing import Any

import msgspec
from litestar import Controller, Response, post
from litestar.di import NamedDependency
from msgspec import UNSET, UnsetType

from runtime.postprocess import Ranking
from server.call import Field
from server.errors import AnyRequest, NotValid
from server.exchange import Exchange
from server.openapi import Operation
from server.service import Service
from server.surface import Surface
from server.surfaces import tei
from server.surfaces.cohere import DocumentText, RerankError, RerankUsage, new_id, usage_of, voice
from server.surfaces.documents import (
    Documents,
    TopN,
    Truncation,
    best,
    check_top_n,
    texts_of,
    truncate_of,
    truncate_prompt,
)


# Requests. `model` is ignored, and so are unknown fields.
class DocumentsRequest(msgspec.Struct):
    """The simple request with vLLM's and Infinity's fields. `raw_scores: true` and
    `use_activation: false` make relevance_score the logit."""

    query: str
    documents: Documents
    model: str | None = None
    top_n: TopN | None = None
    return_documents: bool | None = None
    truncate: Truncation | None = None
    truncate_prompt_tokens: int | None = None
    raw_scores: bool | None = None
    use_activation: bool | None = None


_NULL = msgspec.Raw(b"null")


class _Which(msgspec.Struct):
    documents: msgspec.Raw = _NULL
    texts: msgspec.Raw = _NULL


# Reply
class Result(msgspec.Struct):
    """One document: a plain text, or an object when return_documents is true."""

    index: int
    relevance_score: float
    document: str | DocumentText | UnsetType = UNSET


class DocumentsReply(msgspec.Struct):
    """`scores` are raw logits in the order of the documents, `ranked_indices` all documents, best
    first; `top_n` shortens `results` only."""

    id: str
    model: str
    usage: RerankUsage
    results: list[Result]
    scores: list[float]
    ranked_indices: list[int]


# Mapping
_WHICH = msgspec.json.Decoder(_Which)
_DOCUMENTS = msgspec.json.Decoder(DocumentsRequest)
_ENCODER = msgspec.json.Encoder()


def _shown(text: str, return_documents: bool | None) -> str | DocumentText | UnsetType:
    if return_documents is None:
        return text
    return DocumentText(text) if return_documents else UNSET


def _encode(ranking: Ranking, asked: DocumentsRequest, texts: list[str], model: str) -> bytes:
    raw = asked.raw_scores is True or asked.use_activation is False
    scores = ranking.logits if raw else ranking.relevance()
    order = ranking.order.tolist()
    results = [
        Result(i, float(scores[i]), _shown(texts[i], asked.return_documents))
        for i in best(order, asked.top_n)
    ]
    logits = ranking.logits.tolist()
    return _ENCODER.encode(
        DocumentsReply(new_id(), model, usage_of(ranking), results, logits, order)
    )


# Controller
class Rerank(Controller):
    """One path; the body says which family asks."""

    @post("/rerank", status_code=200)
    async def rerank(
        self, request: AnyRequest, service: NamedDependency[Service]
    ) -> Response[bytes]:
        """Rerank documents, or texts."""
        exchange = Exchange(request, service)
        asked = await _read(exchange)
        if isinstance(asked, tei.TextsRequest):
            return await tei.rank_texts(exchange, asked)
        return await _rank_documents(exchange, asked, service)


async def _read(exchange: Exchange) -> tei.TextsRequest | DocumentsRequest:
    """What is asked; the bytes of the body are gone then."""
    body = await exchange.json_body()
    which = await exchange.decode(_WHICH, body)
    if which.documents != _NULL and which.texts != _NULL:
        message = "found `documents` and `texts`, wanted one of them"
        raise NotValid("value_error", (), message)
    if which.texts != _NULL:
        return await tei.read_texts(exchange, body)
    return await exchange.decode(_DOCUMENTS, body)


async def _rank_documents(
    exchange: Exchange, asked: DocumentsRequest, service: Service
) -> Response[bytes]:
    served = service.served("rank")
    check_top_n(asked.top_n)
    exchange.check_count("rank", len(asked.documents), Field("documents"))
    texts = texts_of(asked.documents)
    truncate = truncate_prompt(
        asked.truncate_prompt_tokens,
        served.model.info.max_tokens,
        truncate_of(asked.truncate, "NONE"),
    )
    ranking = await exchange.rank(asked.query, texts, truncate)
    return exchange.reply(_encode(ranking, asked, texts, served.name))


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
                "With `texts`: TEI's bare list and TEI's errors."
            ),
            request=(DocumentsRequest, tei.TextsRequest),
            request_example=_REQUEST,
            reply=(DocumentsReply, list[tei.Rank]),
            reply_example=_REPLY,
            error=(RerankError, tei.TeiError),
            statuses=(*tei.STATUSES, 504),
        ),
    ),
    voice=voice,
    paths=("/rerank",),
)
