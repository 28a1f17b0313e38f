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
    printable,
    server_message,
)
from rerank_client.backoff import LONGEST_WAIT_S, asked_wait_s, own_wait_s
from rerank_client.errors import RerankError
from rerank_client.question import Question
from rerank_client.result import RerankResult, given_order
from rerank_client.target import Target

ATTEMPTS = 3
# Of the 4xx only these can end otherwise when the same request is sent again.
_PASSING = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)
_FIRST_SERVER_ERROR = 500

logger = logging.getLogger("rerank_client")


@dataclass(frozen=True)
class Send:
    """POST this body to this URL."""

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)


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


def rank(
    target: Target,
    asked: Question,
    *,
    chance: Callable[[], float] = random.random,
    now: Callable[[], float] = time.time,
) -> Flow:
    """The ranking, or a RerankError. No documents: an empty ranking without asking anybody."""
    if not asked.documents:
        return RerankResult([], [])
    body = target.surface.encode(asked)
    for attempt in range(ATTEMPTS):
        outcome = yield Send(target.url, target.headers, body)
        found = _judge(target, outcome, asked)
        if isinstance(found, RerankResult):
            return found
        wait_s = _wait_s(found, attempt, chance, now)
        if wait_s is None:
            raise _error(target, found, attempt + 1) from found.cause
        logger.info("%s; asking again in %.1f s", _sentence(target, found), wait_s)
        yield Wait(wait_s)
    raise AssertionError("the last attempt has no wait after it")


def rank_or_keep_order(target: Target, asked: Question) -> Flow:
    """As `rank`; instead of a RerankError the given order, marked as degraded, and a warning."""
    try:
        return (yield from rank(target, asked))
    except RerankError as error:
        logger.warning("not reranked, the given order is kept: %s", error)
        return given_order(len(asked.documents), asked.top_n)


def _judge(
    target: Target, outcome: Answer | NoAnswer | None, asked: Question
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
        return target.surface.read(outcome.body, len(asked.documents), asked.top_n)
    except MakesNoSense as error:
        # Whatever answers there would answer the same again.
        text = f"the answer makes no sense: {printable(str(error))}; is this a reranking server?"
        return _Trouble(text, may_pass=False, status=outcome.status, cause=error)


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


def _wait_s(
    trouble: _Trouble, attempt: int, chance: Callable[[], float], now: Callable[[], float]
) -> float | None:
    """None: it was the last attempt, another is of no use, or not before too long a time."""
    if not trouble.may_pass or attempt + 1 == ATTEMPTS:
        return None
    asked_s = None if trouble.retry_after is None else asked_wait_s(trouble.retry_after, now)
    if asked_s is None:
        return own_wait_s(attempt, chance)
    if asked_s > LONGEST_WAIT_S:
        return None
    # Never earlier than asked, and not all refused callers in the same moment.
    return asked_s + chance()


def _sentence(target: Target, trouble: _Trouble) -> str:
    return f"POST {target.name}: {trouble.text}"


def _error(target: Target, trouble: _Trouble, attempts: int) -> RerankError:
    text = _sentence(target, trouble)
    if trouble.may_pass:
        text += f" (attempt {attempts} of {ATTEMPTS}"
        text += f", retry-after: {printable(trouble.retry_after)})" if trouble.retry_after else ")"
    return RerankError(text, status=trouble.status, attempts=attempts)
