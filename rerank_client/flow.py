"""One ranking with its retries, as a generator without a network.

A flow yields the next step and is sent its outcome:

    Send(url, headers, body)  →  Answer or NoAnswer
    Wait(seconds)             →  None

and returns a RerankResult or raises a RerankError. Both clients drive the same flow, so only this
module decides what is retried, when and how often. Images are read before the first step.
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
    max_answer_bytes,
    printable,
    server_message,
)
from rerank_client.backoff import parse_retry_after, wait_s
from rerank_client.errors import RerankError
from rerank_client.question import Question
from rerank_client.result import RerankResult, given_order
from rerank_client.target import Target

ATTEMPTS = 3
TIMEOUT_S = 60.0
# Share of the whole limit; with less time left there is no retry.
_MIN_SHARE = 0.05
# The only 4xx for which a retry of the same request may succeed.
_RETRYABLE = (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS)
_FIRST_SERVER_ERROR = 500

logger = logging.getLogger("rerank_client")


@dataclass(frozen=True)
class Send:
    """POST this body to this URL.

    The answer must be complete within `within_s` seconds, the connection open within `connect_s`,
    and the answer at most `max_bytes` long, headers included.
    """

    url: str = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    body: bytes = field(repr=False)
    within_s: float
    connect_s: float
    max_bytes: int


@dataclass(frozen=True)
class Wait:
    """Wait for `seconds`."""

    seconds: float


Flow: TypeAlias = Generator[Send | Wait, Answer | NoAnswer | None, RerankResult]


def step_of(flow: Flow, outcome: Answer | NoAnswer | None = None) -> Send | Wait | RerankResult:
    """The next step after the outcome of the last one, or the end's result. Raises as the flow."""
    try:
        return flow.send(outcome)
    except StopIteration as end:
        result: RerankResult = end.value
        return result


@dataclass(frozen=True)
class _Failure:
    """Why an attempt gave no ranking."""

    text: str
    retryable: bool
    status: int | None = None
    retry_after: str | None = None
    cause: Exception | None = None


def limit_of(timeout_s: float) -> float:
    """The time limit of a call in seconds. Raises TypeError, or ValueError unless above 0."""
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
    rand: Callable[[], float] = random.random,
    now: Callable[[], float] = time.time,
    clock: Callable[[], float] = time.monotonic,
) -> Flow:
    """The ranking, or a RerankError, after at most `timeout_s` seconds of `clock`.

    No documents: an empty ranking without a request. An attempt may use all the remaining time,
    because a slow server is not asked twice. An early failure leaves time for a retry; so does a
    connection that does not open, which gets only its share.
    """
    if not asked.documents:
        return RerankResult([], [])
    deadline_s = clock() + timeout_s
    body = target.surface.encode(asked)
    max_bytes = max_answer_bytes(asked.text_bytes, len(asked.documents))
    for attempt in range(ATTEMPTS):
        left_s = deadline_s - clock()
        connect_s = left_s / (ATTEMPTS - attempt)
        outcome = yield Send(target.url, target.headers, body, left_s, connect_s, max_bytes)
        found = _judge(target, outcome, asked, max_bytes)
        if isinstance(found, RerankResult):
            return found
        remaining_s = deadline_s - clock() - timeout_s * _MIN_SHARE
        pause_s = _pause_s(found, attempt, remaining_s, rand, now)
        if pause_s is None:
            raise _error(target, found, attempt + 1, timeout_s) from found.cause
        logger.info("%s; retrying in %.1f s", _line(target, found), pause_s)
        yield Wait(pause_s)
    raise AssertionError("the last attempt has no wait after it")


def rank_or_keep_order(target: Target, asked: Question, timeout_s: float = TIMEOUT_S) -> Flow:
    """As `rank`, but returns the given order, marked as degraded, and warns instead of raising."""
    try:
        return (yield from rank(target, asked, timeout_s))
    except RerankError as error:
        logger.warning("not reranked, the given order is kept: %s", error)
        return given_order(len(asked.documents), asked.top_n)


def _judge(
    target: Target, outcome: Answer | NoAnswer | None, asked: Question, max_bytes: int
) -> RerankResult | _Failure:
    if isinstance(outcome, NoAnswer):
        error = outcome.error
        text = f"{type(error).__name__}: {error}".removesuffix(": ")
        return _Failure(printable(text), outcome.retryable, cause=error)
    if not isinstance(outcome, Answer):
        raise TypeError("a flow that asked to send wants an Answer or a NoAnswer")
    if outcome.status != OK:
        return _refusal(outcome)
    try:
        _require_plain(outcome, max_bytes)
        return target.surface.read(outcome.body, len(asked.documents), asked.top_n)
    except MakesNoSense as error:
        # A retry would reach the same server.
        text = f"the answer is invalid: {printable(str(error))}; is this a reranking server?"
        return _Failure(text, retryable=False, status=outcome.status, cause=error)


def _require_plain(answer: Answer, max_bytes: int) -> None:
    encoding = answer.headers.get("content-encoding", "identity")
    if encoding.strip().lower() not in ("", "identity"):
        raise MakesNoSense(f"content-encoding is {encoding}, wanted identity, as asked for")
    if not answer.complete:
        raise MakesNoSense(f"it takes more than {max_bytes} bytes, wanted at most that")


def _refusal(answer: Answer) -> _Failure:
    location = answer.headers.get("location")
    if location is not None:
        # Not followed: it would send the key and the documents to another address.
        message = f"redirected to {printable(location)}; set base_url to the server's address"
    else:
        message = server_message(answer.body) or "no readable message"
    retryable = answer.status in _RETRYABLE or answer.status >= _FIRST_SERVER_ERROR
    text = f"status {answer.status}: {message}"
    return _Failure(text, retryable, answer.status, answer.headers.get("retry-after"))


def _pause_s(
    failure: _Failure,
    attempt: int,
    left_s: float,
    rand: Callable[[], float],
    now: Callable[[], float],
) -> float | None:
    """None: after the last attempt, for a permanent failure, or without enough time."""
    if not failure.retryable or attempt + 1 == ATTEMPTS:
        return None
    retry_after_s = (
        None if failure.retry_after is None else parse_retry_after(failure.retry_after, now)
    )
    return wait_s(attempt, retry_after_s, left_s, rand)


def _line(target: Target, failure: _Failure) -> str:
    return f"POST {target.name}: {failure.text}"


def _error(target: Target, failure: _Failure, attempts: int, timeout_s: float) -> RerankError:
    text = _line(target, failure)
    if failure.retryable:
        details = [f"attempt {attempts} of {ATTEMPTS}"]
        if failure.retry_after:
            details.append(f"retry-after: {printable(failure.retry_after)}")
        if attempts < ATTEMPTS:
            details.append(f"timeout_s: {timeout_s:g}")
        text += f" ({', '.join(details)})"
    return RerankError(text, status=failure.status, attempts=attempts)
