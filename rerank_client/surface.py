"""The HTTP contracts of a ranking: a path, a request body, a reply body."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from rerank_client.answer import NOT_JSON, MakesNoSense, read_list, read_ranking
from rerank_client.question import Question, encode, encode_fields
from rerank_client.result import RerankResult


@dataclass(frozen=True)
class Surface:
    """`encode` writes the body that is posted to `path`; `read` parses the ranking of n documents,
    indices cut at top_n, from the reply's body, or raises MakesNoSense."""

    path: str
    encode: Callable[[Question], bytes]
    read: Callable[[bytes, int, int | None], RerankResult]


# This project's own, the default.
RERANK = Surface("/rerank", encode, read_ranking)


def nim(model: str | None = None, *, truncate: str = "NONE") -> Surface:
    """NVIDIA's ranking NIM, POST /v1/ranking, as NIM 1.10.0 documents it; images as the vision
    NIMs take them, 1.11.0 and newer.

    `model` is the NIM's model (None: not sent, which not every version accepts). `truncate` is NONE
    (texts that are too long are refused), END or START. The NIM limits the documents of one request
    (512 by default), and refuses more.
    """

    def encode_nim(asked: Question) -> bytes:
        fields: dict[str, object] = {
            "query": {"text": asked.query},
            "passages": [
                {"text": document} if isinstance(document, str) else document
                for document in asked.sendable_documents()
            ],
            "truncate": truncate,
        }
        if model is not None:
            fields["model"] = model
        return encode_fields(asked, fields)

    return Surface("/v1/ranking", encode_nim, _read_nim)


# The limit of one of a reply's rankings, with white space.
_RANKED_BYTES = 256


class _Ranked(msgspec.Struct):
    index: int
    logit: float


class _Rankings(msgspec.Struct):
    rankings: msgspec.Raw


def _read_nim(body: bytes, documents: int, top_n: int | None) -> RerankResult:
    try:
        text = msgspec.json.decode(body, type=_Rankings).rankings
        ranked = read_list("rankings", text, documents, list[_Ranked], _RANKED_BYTES)
    except NOT_JSON as error:
        raise MakesNoSense(f"wanted JSON with rankings, {error}") from error
    if sorted(one.index for one in ranked) != list(range(documents)):
        raise MakesNoSense(f"rankings do not name each of {documents} documents once")
    scores = {one.index: one.logit for one in ranked}
    if not all(math.isfinite(score) for score in scores.values()):
        raise MakesNoSense("a logit is not a finite number")
    # Order by the logits, not by the order of the reply: the logits decide.
    order = sorted(scores, key=lambda index: (-scores[index], index))
    return RerankResult([scores[index] for index in range(documents)], order[:top_n])
