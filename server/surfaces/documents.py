"""The common part of the rerank dialects: the request, documents as texts or objects, and top
results.

The dialects share paths, so each path accepts the fields of all. The body decides the family: with
a field that only vLLM has, with `top_n: 0`, or with one text instead of the list, it is vLLM's;
with `raw_scores` it is Infinity's. Both accept blank texts.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal, NamedTuple

import msgspec
from msgspec import UNSET, Meta, UnsetType

from runtime.postprocess import Ranking
from runtime.requests import RankRequest, TokenLimits, Truncate
from server.call import Field, Place, listed
from server.errors import InvalidRequest
from server.exchange import Exchange
from server.images import SentImage
from server.lax import Flag, Positive, Whole
from server.surfaces.parts import CONTENT, IMAGE, Parts, parts_of, refuse_settings
from server.surfaces.pooling import PoolingFields, cut_of, is_vllm, wants_logits
from server.surfaces.truncation import Truncation

Document = str | dict[str, Any]
Documents = Annotated[list[Document], Meta(extra_json_schema={"minItems": 1})]
Never = Annotated[Flag, Meta(extra_json_schema={"const": False})]


class RerankRequest(PoolingFields, kw_only=True):
    """The fields of Cohere v1, Jina, Infinity and vLLM, and of the simple request. `truncate` and
    Jina's `truncation` say whether texts that are too long are truncated; `raw_scores: true` gives
    logits; `top_n: 0` means all. A vision model also takes images: documents with an `image`, with
    or without a `text`, and vLLM's `content` of parts; each in base64, alone or as a data URL."""

    query: str
    documents: Document | Documents
    top_n: Annotated[Whole, Meta(extra_json_schema={"minimum": 0})] | None = None
    return_documents: Flag | None = None
    truncate: Truncation | None = None
    # Cohere's
    rank_fields: list[str] | None = None
    max_chunks_per_doc: Annotated[Whole, Meta(extra_json_schema={"const": 1})] | None = None
    # Jina's
    truncation: Flag | None = None
    max_query_length: Positive | None = None
    max_doc_length: Positive | None = None
    return_embeddings: Never | None = None
    # Infinity's
    raw_scores: Flag | None = None


class DocumentText(msgspec.Struct):
    """A document's text as it was scored; of an image alone it is empty."""

    text: str


ReturnedDocument = str | DocumentText | UnsetType


class Result(msgspec.Struct):
    """One document. `relevance_score` is the logit's sigmoid, or the other activation that the
    model was saved with; with `use_activation: false` (Infinity: `raw_scores: true`) the logit."""

    index: int
    relevance_score: float
    document: ReturnedDocument = UNSET


class RankedDocuments(NamedTuple):
    """A ranking of `texts`, the documents' texts in their order, by the `model` of that name."""

    ranking: Ranking
    texts: list[str]
    model: str


async def rank_documents(
    exchange: Exchange, payload: RerankRequest, default: Truncate
) -> RankedDocuments:
    """Rank the payload's documents. `default` is the truncation without one in the payload, except
    for vLLM's, which then truncates nothing. Raises InvalidRequest and what Call.rank raises."""
    served = exchange.service.served("rank")
    _check(payload)
    documents, at = listed("documents", payload.documents)
    exchange.check_count("rank", len(documents), at)
    texts, images = documents_of(documents, at, payload.rank_fields)
    family = family_of(payload)
    truncate, limits = cut_of(
        payload,
        served.model.info.max_tokens,
        truncate=payload.truncate,
        truncation=payload.truncation,
        default="NONE" if family == "vllm" else default,
    )
    limits = TokenLimits(
        query=_least(limits.query, payload.max_query_length),
        passage=_least(limits.passage, payload.max_doc_length),
        pair=limits.pair,
    )
    if images:
        refuse_settings(mm_processor_kwargs=payload.mm_processor_kwargs)
    blanks = family is not None
    passages, at = await exchange.passages("rank", texts, images, at)
    request = RankRequest(
        payload.query,
        passages,
        payload.instruction,
        truncate=truncate,
        limits=limits,
        blanks=blanks,
    )
    return RankedDocuments(await exchange.rank(request, passages_at=at), texts, served.name)


def family_of(payload: RerankRequest) -> Literal["vllm", "infinity"] | None:
    """The family of the request, if the body decides it."""
    if is_vllm(payload) or payload.top_n == 0 or not isinstance(payload.documents, list):
        return "vllm"
    return None if payload.raw_scores is None else "infinity"


def results_of(ranked: RankedDocuments, payload: RerankRequest, *, plain: bool) -> list[Result]:
    """The top results. Where the body does not decide the form of their documents, they are texts
    if `plain`, else objects."""
    ranking, show = ranked.ranking, _document_writer(payload, plain=plain)
    raw = wants_logits(payload, payload.raw_scores)
    scores = ranking.logits if raw else ranking.relevance()
    return [
        Result(i, float(scores[i]), show(ranked.texts[i]))
        for i in top_results(ranking.order.tolist(), payload.top_n)
    ]


def _document_writer(payload: RerankRequest, *, plain: bool) -> Callable[[str], ReturnedDocument]:
    """Returns a function from a text to the `document` of its result: an object for vLLM, a text
    for Infinity if it asks for one. If the body decides neither family nor form, a text if
    `plain`, else an object."""
    family = family_of(payload)
    asks = payload.return_documents
    if asks is False or (asks is None and family == "infinity"):
        return lambda _: UNSET
    if family == "infinity" or (asks is None and family is None and plain):
        return str
    return DocumentText


def documents_of(
    documents: Sequence[Document], at: Field, fields: Sequence[str] | None = None
) -> tuple[list[str], dict[int, SentImage]]:
    """The text of each of the documents in the field `at`, and their images by number.

    A text is the document itself, or the object's `fields` (`text`) in order, a line each. With
    `fields`, nothing else of an object counts. Raises InvalidRequest for an object without any of
    them and without an image, or with one that is not a text.
    """
    if at.alone and isinstance(documents[0], dict) and CONTENT not in documents[0]:
        # vLLM takes its own object alone, no other server any.
        raise InvalidRequest("type_error", at.place(0), "wanted a list of objects")
    # A field named twice is still one text.
    ranks = {name: rank for rank, name in enumerate(dict.fromkeys(fields or ()))}
    found = [_parts(one, at.place(index), ranks) for index, one in enumerate(documents)]
    images = {index: one.image for index, one in enumerate(found) if one.image is not None}
    return [one.text for one in found], images


def _parts(document: Document, place: Place, ranks: Mapping[str, int]) -> Parts:
    """Text and image of a document. If there are `ranks`, an object's fields among them count."""
    if isinstance(document, str):
        return Parts(document)
    if not ranks:
        return parts_of(document, place)
    if isinstance(document.get(IMAGE), str) or isinstance(document.get(CONTENT), list):
        message = "rank_fields rank texts; leave them out, or the image"
        raise InvalidRequest("value_error", place, message)
    # Loop over the document's own fields, not all named ones: a body may have many of both.
    named = sorted((name for name in document if name in ranks), key=ranks.__getitem__)
    found = [document[name] for name in named]
    # Other field names are the caller's text, which answers do not repeat.
    if not found:
        raise InvalidRequest("missing", place, "wanted one of the rank_fields")
    if not all(isinstance(value, str) for value in found):
        raise InvalidRequest("type_error", place, "wanted a text as one of the rank_fields")
    return Parts("\n".join(found))


def top_results(order: Sequence[int], top_n: int | None) -> Sequence[int]:
    """The first `top_n` of `order`; all for None and 0."""
    return order[: top_n or None]


def check_least(name: str, found: int | None, least: int) -> None:
    """Raise InvalidRequest for a field `name` below `least`."""
    if found is not None and found < least:
        raise InvalidRequest("greater_than", (name,), f"wanted {least} or more")


def _check(payload: RerankRequest) -> None:
    # Refuses contradicting fields, before anything is scored.
    wants_logits(payload, payload.raw_scores)
    # vLLM's default, for all, is 0; Infinity's minimum is 1.
    check_least("top_n", payload.top_n, 1 if payload.raw_scores is not None else 0)
    check_least("max_query_length", payload.max_query_length, 1)
    check_least("max_doc_length", payload.max_doc_length, 1)
    if payload.max_chunks_per_doc not in (None, 1):
        message = "this server scores a document as one text; leave it out, or send 1"
        raise InvalidRequest("value_error", ("max_chunks_per_doc",), message)
    if payload.return_embeddings:
        message = "a reranker gives scores only; leave it out, or send false"
        raise InvalidRequest("value_error", ("return_embeddings",), message)


def _least(*limits: int | None) -> int | None:
    return min((limit for limit in limits if limit is not None), default=None)
