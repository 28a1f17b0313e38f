"""One ranking with its retries, as a conversation without I/O.

A flow yields what has to be done next and is sent what came of it:

    Send(url, headers, body)  →  Answer or NoAnswer
    Wait(seconds)             →  None

and returns a RerankResult or raises a RerankError. Both clients drive the same flow, so what is
asked again, when and how often stands here alone.
"""

import logging
import random
import time
from collections.abc import Callable, Generator, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TypeAlias

from rerank_client.answer import (
    OK,
    Answer,
    MakesNoSense,
    NoAnswer,
    most_answer_bytes,
    printable,
    server_message,
)
from rerank_client.backoff import asked_wait_s, wait_s
from rerank_client.errors import RerankError
from rerank_client.question import Question
from rerank_client.result import RerankResult, given_order
from rerank_client.target import Target

ATTEMPTS = 3
TIMEOUT_S = 60.0
# Of the whole limit: in less than that nothing is asked again.
_LEAST_SHARE = 0.05
# Of the 4xx only these can end otherwise when the same request is sent again.
_PASSING = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)
_FIRST_SERVER_ERROR = 500

logger = logging.getLogger("rerank_client")


@dataclass(frozen=True)
class Send:
    """POST this body to this URL.

    The answer has to be whole `within_s` seconds, the connection open within `connect_s`, and it
    takes at most `most_bytes`, headers included.
    """

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    within_s: float
    connect_s: float
    most_bytes: int


@dataclass(frozen=True)
class Wait:
    """Do nothing for so long."""

    seconds: float


Flow: TypeAlias = Generator[Send | Wait, Answer | NoAnswer | None, RerankResult]


@dataclass(frozen=True)
class _Trouble:
    """Why an attempt brought no ranking."""

    text: str
    may_pass: bool
    status: int | None = None
    retry_after: str | None = None
    cause: Exception | None = None


def limit_of(timeout_s: float) -> float:
    """The seconds that a call may take. Raises TypeError, or ValueError for 0, less, and NaN."""
    try:
        seconds = float(timeout_s)
    except OverflowError:
        raise ValueError("timeout_s is larger than any float, wanted at most inf") from None
    if not seconds > 0:
        raise ValueError(f"timeout_s is {timeout_s}, wanted more than 0")
    return seconds


def rank(
    target: Target,
    asked: Question,
    timeout_s: float = TIMEOUT_S,
    *,
    chance: Callable[[], float] = random.random,
    now: Callable[[], float] = time.time,
    clock: Callable[[], float] = time.monotonic,
) -> Flow:
    """The ranking, or a RerankError, after `timeout_s` seconds of `clock` at most.

    No documents: an empty ranking without asking anybody. An attempt may take all the time that is
    left: a server that needs long is not asked thrice for it. What fails early leaves time for
    another attempt; so does a connection that does not come about, which gets only its share.
    """
    if not asked.documents:
        return RerankResult([], [])
    until_s = clock() + timeout_s
    body = target.surface.encode(asked)
    most_bytes = most_answer_bytes(len(body), len(asked.documents))
    for attempt in range(ATTEMPTS):
        left_s = until_s - clock()
        connect_s = left_s / (ATTEMPTS - attempt)
        outcome = yield Send(target.url, target.headers, body, left_s, connect_s, most_bytes)
        found = _judge(target, outcome, asked, most_bytes)
        if isinstance(found, RerankResult):
            return found
        spare_s = until_s - clock() - timeout_s * _LEAST_SHARE
        pause_s = _pause_s(found, attempt, spare_s, chance, now)
        if pause_s is None:
            raise _error(target, found, attempt + 1, timeout_s) from found.cause
        logger.info("%s; asking again in %.1f s", _sentence(target, found), pause_s)
        yield Wait(pause_s)
    raise AssertionError("the last attempt has no wait after it")


def rank_or_keep_order(target: Target, asked: Question, timeout_s: float = TIMEOUT_S) -> Flow:
    """As `rank`; instead of a RerankError the given order, marked as degraded, and a warning."""
    try:
        return (yield from rank(target, asked, timeout_s))
    except RerankError as error:
        logger.warning("not reranked, the given order is kept: %s", error)
        return given_order(len(asked.documents), asked.top_n)


def _judge(
    target: Target, outcome: Answer | NoAnswer | None, asked: Question, most_bytes: int
) -> RerankResult | _Trouble:
    if isinstance(outcome, NoAnswer):
        error = outcome.error
        text = f"{type(error).__name__}: {error}".removesuffix(": ")
        return _Trouble(printable(text), outcome.may_pass, cause=error)
    if not isinstance(outcome, Answer):
        raise TypeError("a flow that asked to send wants an Answer or a NoAnswer")
    if outcome.status != OK:
        return _refusal(outcome)
    try:
        _require_plain(outcome, most_bytes)
        return target.surface.read(outcome.body, len(asked.documents), asked.top_n)
    except MakesNoSense as error:
        # Whatever answers there would answer the same again.
        text = f"the answer makes no sense: {printable(str(error))}; is this a reranking server?"
        return _Trouble(text, may_pass=False, status=outcome.status, cause=error)


def _require_plain(answer: Answer, most_bytes: int) -> None:
    encoding = answer.headers.get("content-encoding", "identity")
    if encoding.strip().lower() not in ("", "identity"):
        raise MakesNoSense(f"content-encoding is {encoding}, wanted identity, as asked for")
    if not answer.whole:
        raise MakesNoSense(f"it takes more than {most_bytes} bytes, wanted at most that")


def _refusal(answer: Answer) -> _Trouble:
    location = answer.headers.get("location")
    if location is not None:
        # Not followed: it would carry the key and the documents to another address.
        words = f"redirected to {printable(location)}; set base_url to where the server is"
    else:
        words = server_message(answer.body) or "no message that could be read"
    may_pass = answer.status in _PASSING or answer.status >= _FIRST_SERVER_ERROR
    text = f"status {answer.status}: {words}"
    return _Trouble(text, may_pass, answer.status, answer.headers.get("retry-after"))


def _pause_s(
    trouble: _Trouble,
    attempt: int,
    left_s: float,
    chance: Callable[[], float],
    now: Callable[[], float],
) -> float | None:
    """None: it was the last attempt, another is of no use, or not in the time that is left."""
    if not trouble.may_pass or attempt + 1 == ATTEMPTS:
        return None
    asked_s = None if trouble.retry_after is None else asked_wait_s(trouble.retry_after, now)
    return wait_s(attempt, asked_s, left_s, chance)


def _sentence(target: Target, trouble: _Trouble) -> str:
    return f"POST {target.name}: {trouble.text}"


def _error(target: Target, trouble: _Trouble, attempts: int, timeout_s: float) -> RerankError:
    text = _sentence(target, trouble)
    if trouble.may_pass:
        details = [f"attempt {attempts} of {ATTEMPTS}"]
        if trouble.retry_after:
            details.append(f"retry-after: {printable(trouble.retry_after)}")
        if attempts < ATTEMPTS:
            details.append(f"timeout_s: {timeout_s:g}")
        text += f" ({', '.join(details)})"
    return RerankError(text, status=trouble.status, attempts=attempts)
