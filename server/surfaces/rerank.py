"""POST /rerank, shared by four families: the simple request, vLLM's, Infinity's and TEI's.

A body with `documents` gets one superset reply: the open-data-reranker's results, the scores and
ranked_indices that `rerank_client` reads, vLLM's id, model and usage. The form of a result's
document depends on the family (`documents.results_of`). A body with `texts` gets TEI's list.
"""

from typing import Any

import msgspec
from litestar import Response, post
from litestar.di import NamedDependency
from msgspec import UNSET

from server.errors import InvalidRequest
from server.exchange import Exchange
from server.json_body import converted
from server.surface import Surface
from server.surfaces import tei
from server.surfaces.cohere import error_body, id_of
from server.surfaces.documents import RerankRequest, Result, rank_documents, results_of
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


# Route
@post(
    "/rerank",
    status_code=200,
    tags=["Rerank dialects"],
    body=RerankRequest | tei.TextsRequest,
    error_formats=(error_body, tei.error_body),
)
async def rerank(exchange: NamedDependency[Exchange]) -> Response[DocumentsReply | list[tei.Rank]]:
    """Rerank documents, or texts as TEI does.

    With `documents`: results by descending relevance, scores and ranked_indices; `document` is
    a text, with return_documents true an object, with false left out. A body with a field of
    vLLM's alone, with `top_n: 0`, or with one text as `documents`, gets objects. One with
    `raw_scores` is Infinity's, and gets texts with return_documents true only. With `texts`:
    TEI's bare list and TEI's errors.
    """
    payload = await _read(exchange)
    if isinstance(payload, tei.TextsRequest):
        return await tei.rank_texts(exchange, payload)
    ranked = await rank_documents(exchange, payload, "NONE")
    ranking = ranked.ranking
    reply = DocumentsReply(
        id_of(payload.request_id),
        ranked.model,
        usage_of(ranking),
        results_of(ranked, payload, plain=True),
        ranking.logits.tolist(),
        ranking.order.tolist(),
    )
    return exchange.reply(reply)


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
    await exchange.service.body_budget.slices.before(len(body))  # objects are walked once more
    if found.get("texts") is None:
        return converted(found, RerankRequest)
    if found.get("documents") is not None:
        message = "found `documents` and `texts`, wanted one of them"
        raise InvalidRequest("value_error", (), message)
    exchange.use_error_format(tei.error_body)
    return converted(found, tei.TextsRequest)


SURFACE = Surface(controllers=(rerank,), error_format=error_body, paths=("/rerank",))
