"""The faults' type, and the functions that judge a target."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx

if TYPE_CHECKING:
    from checks.faults.target import Target

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
    run: "Callable[[Target], None]"


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
    """Expect any status but 5xx, without a stack trace."""
    expect(
        reply.status_code < _SERVER_ERROR, f"found status {reply.status_code}, wanted 2xx or 4xx"
    )
    expect(b"Traceback" not in reply.content, "the body shows a stack trace")


def answered(reply: httpx.Response) -> None:
    """Expect 200."""
    expect(reply.status_code == 200, f"found status {reply.status_code}, wanted 200")
