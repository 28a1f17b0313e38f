"""An OpenAI-compatible endpoint that is busy, slow and sometimes wrong.

Every answer that was understood is kept in a journal under the hash of its request: asking again,
in this run or after a kill, costs nothing. The API key goes into the request's header and nowhere
else.
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
from recipe.progress import Say

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 60.0
# 408 and 425 mean try again, 409 is what some gateways say while a model loads.
_AGAIN = {408, 409, 425, 429}
_SERVER_ERROR = 500
_SHOWN_CHARS = 200
# Some say "again, after 0 s", for ever: each wait is longer than the one before, up to this one.
_FIRST_PATIENCE_S, _LONGEST_PATIENCE_S = 0.1, 5.0
# A quota's, a day away, say: asked again each hour.
_MOST_PATIENCE_S = 3600.0
# An endpoint that never does anything but ask for patience is not waited for.
_MOST_WAITS = 100

Meaning = TypeVar("Meaning")


class Misunderstood(ValueError):
    """The endpoint answered, but not with what was asked for."""


class Usage(msgspec.Struct):
    """What the endpoint counted, over every understood answer that was used, each once."""

    requests: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0


class _Answer(msgspec.Struct, frozen=True):
    """A line of the journal: the body of an answer, under the hash of its request."""

    key: str
    body: Any


class Endpoint:
    """Asks `base_url`; safe to use from several threads."""

    def __init__(
        self,
        base_url: str,
        api_key: str,
        journal: Path,
        *,
        timeout_s: float,
        max_attempts: int,
        connections: int,
        say: Say,
    ) -> None:
        self._url = base_url.rstrip("/")
        self._key = api_key
        self._max_attempts = max_attempts
        self._say = say
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

    def ask(
        self, path: str, request: dict[str, Any], understand: Callable[[Any], Meaning]
    ) -> Meaning:
        """POST `request` and return what `understand` makes of the body of the answer.

        Answers that fail, are cut off or make `understand` raise Misunderstood are asked for
        again, `max_attempts` times in all; a Retry-After holds every thread back and is no
        attempt. Raises StageFailed.
        """
        key = hashlib.sha256(path.encode() + msgspec.json.encode(request, order="sorted"))
        name = key.hexdigest()
        if name in self._known:
            self._count(name)
            return understand(self._known[name])
        failures = waits = 0
        while True:
            body, problem, wait_s = self._once(path, request)
            if problem is None:
                try:
                    meaning = understand(body)
                except Misunderstood as error:
                    problem = f"an answer that cannot be used: {error}"
                else:
                    self._keep(name, body)
                    self._count(name)
                    return meaning
            if wait_s is not None and waits < _MOST_WAITS:
                least_s = min(_LONGEST_PATIENCE_S, _FIRST_PATIENCE_S * 2.0**waits)
                waits += 1
                self._hold_back(max(wait_s, least_s))
                continue
            failures += 1
            if failures >= self._max_attempts:
                raise StageFailed(
                    f"{self._url}{path} gave no usable answer in {failures} attempts; the last one "
                    f"was {problem}. What was answered before is kept: run the same command again"
                )
            longest = min(_LONGEST_WAIT_S, _FIRST_WAIT_S * 2 ** (failures - 1))
            time.sleep(longest * random.uniform(0.5, 1.0))

    def _once(self, path: str, request: dict[str, Any]) -> tuple[Any, str | None, float | None]:
        """(body, None, None), or what went wrong and how long the endpoint said to wait."""
        self._wait_for_leave()
        try:
            answer = self._client.post(f"{self._url}{path}", json=request)
        except httpx.HTTPError as error:
            return None, f"{type(error).__name__}: {self._clean(str(error))}", None
        if answer.is_success:
            try:
                return msgspec.json.decode(answer.content), None, None
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                return None, "a body that is no whole JSON", None
        problem = f"status {answer.status_code}: {self._clean(answer.text)[:_SHOWN_CHARS]}"
        if answer.status_code not in _AGAIN and answer.status_code < _SERVER_ERROR:
            raise StageFailed(
                f"{self._url}{path} refused the request with {problem}; check the endpoint, the "
                "model's name and the key"
            )
        return None, problem, _retry_after_s(answer)

    def _wait_for_leave(self) -> None:
        while (wait_s := self._not_before - time.monotonic()) > 0:
            time.sleep(wait_s)

    def _hold_back(self, wait_s: float) -> None:
        """No thread sends anything for `wait_s`."""
        with self._lock:
            until = time.monotonic() + wait_s
            if until > self._not_before + 1:
                self._say(f"the endpoint asks for {wait_s:.0f} s of patience")
            self._not_before = max(self._not_before, until)

    def _keep(self, name: str, body: Any) -> None:
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

    def _clean(self, text: str) -> str:
        """`text` without the key, which an endpoint may send back."""
        return text.replace(self._key, "***") if self._key else text


def _retry_after_s(answer: httpx.Response) -> float | None:
    """Seconds that the header asks for, as a number or a date (RFC 9110, section 10.2.3)."""
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
    return min(max(0.0, wait_s), _MOST_PATIENCE_S) if math.isfinite(wait_s) else None
