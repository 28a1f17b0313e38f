"""What a fault is, and the words in which one is judged."""

import json
from collections.abc import Callable
from dataclasses import dataclass

import httpx

from checks.faults.target import Target

# A server that refuses says so at once; a whole request may take as long as a slow model takes.
REFUSAL_S = 5.0
_SERVER_ERROR = 500


class NotHere(Exception):
    """The fault does not apply to this target; the text says why."""


class Broken(Exception):
    """The target did something else than it should; the text says what."""


@dataclass(frozen=True)
class Fault:
    """`run` raises Broken or NotHere; `group` is that of the checklist."""

    group: str
    name: str
    run: Callable[[Target], None]


def expect(holds: object, otherwise: str) -> None:
    """Raise Broken unless `holds`."""
    if not holds:
        raise Broken(otherwise)


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
    """Expect an answer or a refusal, whichever the server chooses."""
    expect(
        reply.status_code < _SERVER_ERROR, f"found status {reply.status_code}, wanted 2xx or 4xx"
    )
    expect(b"Traceback" not in reply.content, "the body shows a stack trace")


def answered(reply: httpx.Response) -> None:
    """Expect 200."""
    expect(reply.status_code == 200, f"found status {reply.status_code}, wanted 200")
