"""Client of an OpenAI-compatible endpoint, with retries, backoff and a journal of answers.

Every usable answer is kept in a journal under the hash of its request: the same request in this
run, or after a kill, costs nothing. The API key is sent in the request's header and nowhere else.
"""

import email.utils
import hashlib
import math
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import httpx
import msgspec

from recipe.durable import Journal
from recipe.errors import StageFailed
from recipe.progress import Log

_MIN_BACKOFF_S, _MAX_BACKOFF_S = 0.5, 60.0
# 408 and 425 ask for a retry; some gateways answer 409 while a model loads.
_RETRY_STATUSES = {408, 409, 425, 429}
_SERVER_ERROR = 500
_MAX_ERROR_CHARS = 200
# Minimum waits, doubled each time, for endpoints that keep answering "Retry-After: 0".
_MIN_PAUSE_S, _LONGEST_MIN_PAUSE_S = 0.1, 5.0
# A Retry-After may be a day, for a quota: retry every hour.
_MAX_PAUSE_S = 3600.0
# Limit of waits for an endpoint that answers nothing but Retry-After.
_MAX_PAUSES = 100

Parsed = TypeVar("Parsed")


class UnusableAnswer(ValueError):
    """The endpoint's answer does not have the requested content."""


class Usage(msgspec.Struct):
    """The endpoint's token counts over all answers that were used, each counted once."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Answer(msgspec.Struct, frozen=True):
    """A line of the journal: the body of an answer, with the hash of its request."""

    key: str
    body: Any


class Endpoint:
    """Client of `base_url`; may be used from several threads."""

    def __init__(
        self,
        base_url: str,
        api_key: str,
        journal: Path,
        *,
        timeout_s: float,
        max_attempts: int,
        connections: int,
        log: Log,
    ) -> None:
        self._url = base_url.rstrip("/")
        self._key = api_key
        self._max_attempts = max_attempts
        self._log = log
        self._lock = threading.Lock()
        self._not_before = 0.0
        self.usage = Usage()
        self._counted: set[str] = set()
        held = Journal(journal, _Answer)
        self._known: dict[str, Any] = {entry.key: entry.body for entry in held.read()}
        self._journal = held.open()
        self._client = httpx.Client(
            timeout=timeout_s,
            limits=httpx.Limits(max_connections=connections),
            headers={"Authorization": f"Bearer {api_key}"} if api_key else {},
        )

    def __enter__(self) -> "Endpoint":
        self._writer = self._journal.__enter__()
        return self

    def __exit__(self, *failure: Any) -> None:
        self._client.close()
        self._journal.__exit__(*failure)

    def ask(self, path: str, request: dict[str, Any], parse: Callable[[Any], Parsed]) -> Parsed:
        """POST `request` and return `parse(body)` of the answer's body.

        Failed, truncated or unusable answers (`parse` raises UnusableAnswer) are requested
        again, `max_attempts` times in all. A Retry-After pauses every thread and does not count
        as an attempt. Raises StageFailed.
        """
        key = hashlib.sha256(path.encode() + msgspec.json.encode(request, order="sorted"))
        name = key.hexdigest()
        if name in self._known:
            self._count(name)
            return parse(self._known[name])
        failures = waits = 0
        while True:
            body, problem, wait_s = self._post(path, request)
            if problem is None:
                try:
                    parsed = parse(body)
                except UnusableAnswer as error:
                    problem = f"an unusable answer: {error}"
                else:
                    self._store(name, body)
                    self._count(name)
                    return parsed
            if wait_s is not None and waits < _MAX_PAUSES:
                least_s = min(_LONGEST_MIN_PAUSE_S, _MIN_PAUSE_S * 2.0**waits)
                waits += 1
                self._pause(max(wait_s, least_s))
                continue
            failures += 1
            if failures >= self._max_attempts:
                raise StageFailed(
                    f"{self._url}{path} gave no usable answer in {failures} attempts; the last one "
                    f"was {problem}. Earlier answers are kept: run the same command again"
                )
            longest = min(_MAX_BACKOFF_S, _MIN_BACKOFF_S * 2 ** (failures - 1))
            time.sleep(longest * random.uniform(0.5, 1.0))

    def _post(self, path: str, request: dict[str, Any]) -> tuple[Any, str | None, float | None]:
        """(body, None, None), or (None, problem, the wait that the endpoint asked for)."""
        self._wait_for_pause()
        try:
            answer = self._client.post(f"{self._url}{path}", json=request)
        except httpx.HTTPError as error:
            return None, f"{type(error).__name__}: {self._redact(str(error))}", None
        if answer.is_success:
            try:
                return msgspec.json.decode(answer.content), None, None
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                return None, "a body that is not complete JSON", None
        problem = f"status {answer.status_code}: {self._redact(answer.text)[:_MAX_ERROR_CHARS]}"
        if answer.status_code not in _RETRY_STATUSES and answer.status_code < _SERVER_ERROR:
            raise StageFailed(
                f"{self._url}{path} refused the request with {problem}; check the endpoint, the "
                "model's name and the key"
            )
        return None, problem, _retry_after_s(answer)

    def _wait_for_pause(self) -> None:
        while (wait_s := self._not_before - time.monotonic()) > 0:
            time.sleep(wait_s)

    def _pause(self, wait_s: float) -> None:
        """Stop all threads from sending for `wait_s`."""
        with self._lock:
            until = time.monotonic() + wait_s
            if until > self._not_before + 1:
                self._log(f"the endpoint asks to wait {wait_s:.0f} s")
            self._not_before = max(self._not_before, until)

    def _store(self, name: str, body: Any) -> None:
        with self._lock:
            if name not in self._known:
                self._writer.write(_Answer(name, body))
                self._known[name] = body

    def _count(self, name: str) -> None:
        with self._lock:
            if name in self._counted:
                return
            self._counted.add(name)
            counted = self._known[name].get("usage") or {}
            self.usage.requests += 1
            self.usage.prompt_tokens += counted.get("prompt_tokens") or 0
            self.usage.completion_tokens += counted.get("completion_tokens") or 0

    def _redact(self, text: str) -> str:
        """`text` without the key, which an endpoint may echo."""
        return text.replace(self._key, "***") if self._key else text


def _retry_after_s(answer: httpx.Response) -> float | None:
    """Seconds in the header Retry-After, a number or a date (RFC 9110, section 10.2.3)."""
    given = answer.headers.get("retry-after", "").strip()
    if not given:
        return None
    try:
        wait_s = float(given)
    except ValueError:
        try:
            wait_s = email.utils.parsedate_to_datetime(given).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return min(max(0.0, wait_s), _MAX_PAUSE_S) if math.isfinite(wait_s) else None
