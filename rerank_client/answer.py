"""What comes of sending a request, and what an answer says."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import msgspec

from rerank_client.result import RerankResult

OK = 200
NOT_JSON = (msgspec.MsgspecError, UnicodeError, RecursionError)
_LONGEST_MESSAGE = 300


@dataclass(frozen=True)
class Answer:
    """The server's; header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@dataclass(frozen=True)
class NoAnswer:
    """The exchange broke off; `may_pass` says whether another attempt can end otherwise."""

    error: Exception
    may_pass: bool


class MakesNoSense(Exception):
    """The body is not a ranking of these documents; the text says how."""


class _Reply(msgspec.Struct):
    """The two fields of the server's reply that a ranking needs."""

    scores: list[float]
    ranked_indices: list[int]


def read_ranking(body: bytes, documents: int, top_n: int | None) -> RerankResult:
    """The ranking of so many documents, the indices trimmed to `top_n`. Raises MakesNoSense."""
    try:
        reply = msgspec.json.decode(body, type=_Reply)
    except NOT_JSON as error:
        raise MakesNoSense(f"wanted JSON with scores and ranked_indices, {error}") from error
    scores, order = reply.scores, reply.ranked_indices
    if len(scores) != documents:
        raise MakesNoSense(f"{len(scores)} scores, wanted one for each of {documents} documents")
    if not all(math.isfinite(score) for score in scores):
        raise MakesNoSense("a score is not a finite number")
    if sorted(order) != list(range(documents)):
        raise MakesNoSense(f"ranked_indices do not name each of {documents} documents once")
    if any(scores[better] < scores[worse] for better, worse in pairwise(order)):
        raise MakesNoSense("ranked_indices put a lower score before a higher one")
    return RerankResult(scores, order[:top_n])


def server_message(body: bytes) -> str:
    """The words of an error body in any of the common dialects; "" when there are none.

    One short printable line: it goes into logs.
    """
    try:
        found = msgspec.json.decode(body)
    except NOT_JSON:
        return ""
    if not isinstance(found, dict):
        return ""
    error = found.get("error")
    inner = error.get("message") if isinstance(error, dict) else error
    words = (found.get("message"), inner, found.get("detail"))
    text = next((word for word in words if isinstance(word, str) and word), "")
    return printable(text)


def printable(text: str) -> str:
    """`text` as one short line without control characters."""
    line = "".join(character if character.isprintable() else " " for character in text)
    return line if len(line) <= _LONGEST_MESSAGE else line[:_LONGEST_MESSAGE] + "…"
