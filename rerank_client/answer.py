"""The outcome of an exchange, and the parsing of an answer."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import msgspec

from rerank_client.result import RerankResult

OK = 200
NOT_JSON = (msgspec.MsgspecError, UnicodeError, RecursionError)
_MAX_MESSAGE = 300
# Limit of an answer, headers included …
_BASE_BYTES = 128 << 10
# … plus for each document its index, its scores and their keys …
_DOCUMENT_BYTES = 1 << 10
# … plus the echoed texts, each byte of them escaped as \u0000. Images are not echoed.
_ESCAPED_BYTES = 6
# A score or an index in a list, with the white space around it.
_NUMBER_BYTES = 64


@dataclass(frozen=True)
class Answer:
    """An HTTP answer; header names are in lower case. `complete`: the body was read completely."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    complete: bool = True


@dataclass(frozen=True)
class NoAnswer:
    """The exchange failed; `retryable` says whether a retry may succeed."""

    error: Exception
    retryable: bool


class MakesNoSense(Exception):
    """The body is not a ranking of these documents; the message says why."""


class _Reply(msgspec.Struct):
    """The two fields of the server's reply that a ranking needs."""

    scores: msgspec.Raw
    ranked_indices: msgspec.Raw


_List = TypeVar("_List")


def max_answer_bytes(text_bytes: int, documents: int) -> int:
    """The limit of an answer in bytes, headers included, for texts of this size in all.

    128 KiB, 1 KiB for each document, and six times the texts: a server may echo them.
    """
    return _BASE_BYTES + _DOCUMENT_BYTES * documents + _ESCAPED_BYTES * text_bytes


def read_ranking(body: bytes, documents: int, top_n: int | None) -> RerankResult:
    """Parse a ranking of `documents` documents, indices cut at `top_n`. Raises MakesNoSense."""
    try:
        reply = msgspec.json.decode(body, type=_Reply)
        scores = read_list("scores", reply.scores, documents, list[float])
        order = read_list("ranked_indices", reply.ranked_indices, documents, list[int])
    except NOT_JSON as error:
        raise MakesNoSense(f"wanted JSON with scores and ranked_indices, {error}") from error
    if len(scores) != documents:
        raise MakesNoSense(f"{len(scores)} scores, wanted one for each of {documents} documents")
    if not all(math.isfinite(score) for score in scores):
        raise MakesNoSense("a score is not a finite number")
    if sorted(order) != list(range(documents)):
        raise MakesNoSense(f"ranked_indices do not name each of {documents} documents once")
    if any(scores[better] < scores[worse] for better, worse in pairwise(order)):
        raise MakesNoSense("ranked_indices put a lower score before a higher one")
    return RerankResult(scores, order[:top_n])


def read_list(
    name: str,
    text: msgspec.Raw,
    documents: int,
    kind: type[_List],
    entry_bytes: int = _NUMBER_BYTES,
) -> _List:
    """Decode a list with one entry for each document. Raises MakesNoSense and msgspec's errors."""
    # Check the size before decoding: a Python list takes sixteen times the bytes.
    if len(memoryview(text)) > entry_bytes * (documents + 1):
        raise MakesNoSense(f"{name} takes {len(memoryview(text))} bytes for {documents} documents")
    return msgspec.json.decode(text, type=kind)


def server_message(body: bytes) -> str:
    """The message in an error body of any common dialect; "" when there is none.

    One short printable line, because it is logged.
    """
    try:
        found = msgspec.json.decode(body)
    except NOT_JSON:
        return ""
    if not isinstance(found, dict):
        return ""
    error = found.get("error")
    inner = error.get("message") if isinstance(error, dict) else error
    candidates = (found.get("message"), inner, found.get("detail"))
    text = next((word for word in candidates if isinstance(word, str) and word), "")
    return printable(text)


def printable(text: str) -> str:
    """`text` as one short line without control characters."""
    line = "".join(character if character.isprintable() else " " for character in text)
    return line if len(line) <= _MAX_MESSAGE else line[:_MAX_MESSAGE] + "…"
