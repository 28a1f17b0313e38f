"""The faults' type, and the functions that judge a target."""

import json
import time
from collections.abc import Callable
from dataclasses import dataclass

import httpx

from checks.faults.target import Target
from checks.others import MAX_OTHER_SHARE, Others

# A refusal must be immediate; a whole request may take as long as a slow model needs.
REFUSAL_S = 5.0
_SERVER_ERROR = 500


class NotApplicable(Exception):
    """The fault does not apply to this target; the message says why."""


class NotJudged(Exception):
    """Our own server was late while other processes used the machine: no verdict."""


class Broken(Exception):
    """The target misbehaved; the message says how."""


@dataclass(frozen=True)
class Fault:
    """`run` raises Broken, NotApplicable or NotJudged; `group` is that of the checklist."""

    group: str
    name: str
    run: Callable[[Target], None]


def expect(holds: object, otherwise: str) -> None:
    """Raise Broken unless `holds`."""
    if not holds:
        raise Broken(otherwise)


class Stopwatch:
    """Measures from its creation. Lateness counts only when the server had the machine alone."""

    def __init__(self, target: Target) -> None:
        self._others = Others() if target.own else None
        self._began = time.monotonic()

    def expect(self, bound_s: float, what: str, took_s: float | None = None) -> None:
        """Raise Broken when `what` took `bound_s` or longer (until now, unless `took_s` is given),
        NotJudged when other processes used the machine meanwhile."""
        took_s = time.monotonic() - self._began if took_s is None else took_s
        text = f"{what} took {took_s:.2f} s"
        if took_s >= bound_s and self._others and (share := self._others.share()) > MAX_OTHER_SHARE:
            raise NotJudged(f"{text}, but others took {share:.0%} of the machine")
        expect(took_s < bound_s, text)


def refused(reply: httpx.Response, *statuses: int) -> None:
    """Expect a refusal: 4xx (one of `statuses`, when given), in JSON, without a stack trace."""
    status = reply.status_code
    wanted = status in statuses if statuses else 400 <= status < _SERVER_ERROR
    expect(wanted, f"found status {status}, wanted {statuses or '4xx'}")
    expect(b"Traceback" not in reply.content, "the body shows a stack trace")
    try:
        json.loads(reply.content)
    except ValueError:
        raise Broken(f"status {status} with a body that is no JSON") from None


def survived(reply: httpx.Response) -> None:
    """Expect any status but 5xx, without a stack trace."""
    expect(
        reply.status_code < _SERVER_ERROR, f"found status {reply.status_code}, wanted 2xx or 4xx"
    )
    expect(b"Traceback" not in reply.content, "the body shows a stack trace")


def answered(reply: httpx.Response) -> None:
    """Expect 200."""
    expect(reply.status_code == 200, f"found status {reply.status_code}, wanted 200")
