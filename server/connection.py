"""One request's connection: read its body within limits, and notice that the client disconnects."""

import asyncio
import re
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from io import BytesIO
from typing import TypeVar

from litestar.types import ASGIApp, Receive, Scope, Send

from runtime.errors import Overloaded
from server.errors import (
    AnyRequest,
    BodyTooLarge,
    BodyTooSlow,
    ClientDisconnected,
    WrongContentType,
)
from server.inflating import Inflater, coding_of
from server.memory import trim_heap
from server.time_slices import TimeSlices

T = TypeVar("T")

# A body up to the first share of the budget is small; the second share is reserved for small
# bodies, so that a few large bodies that never end cannot block all others.
_SMALL = 1 / 512
_FOR_SMALL = 1 / 8
# The heap is trimmed after this many bytes of bodies of at least the second size: they arrive in
# pieces of some KiB, whose memory the C library would keep.
_GIVE_BACK_BYTES = 64 << 20
_FRAGMENTED_BYTES = 1 << 20
# The key of a request's reservation in its scope's state.
_RESERVATION = "body_reservation"
# As in FastAPI and axum: application/json, or a suffix, as in application/x+json.
_JSON_TYPE = re.compile(r"application/([^/]*\+)?json")
_CHARSET = re.compile(r"(?:^|;)\s*charset\s*=\s*[\"']?([^\"';\s]*)")
_UTF8 = ("", "utf-8", "utf8", "us-ascii", "ascii")


class BodyBudget:
    """The memory budget of all request bodies together, `limit_bytes`.

    A body counts from its first byte until its request is answered. Its decoded form replaces the
    bytes; if it is larger, the difference counts too. Large bodies of every protocol are scanned
    and decoded in `slices`.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._held_bytes = 0
        self._ended_bytes = 0
        self.slices = TimeSlices()

    def middleware(self, app: ASGIApp) -> ASGIApp:
        """Middleware: release a body's reservation when its request to `app` ends."""

        async def middleware_app(scope: Scope, receive: Receive, send: Send) -> None:
            with self.reservation() as scope["state"][_RESERVATION]:
                await app(scope, receive, send)

        return middleware_app

    @contextmanager
    def reservation(self) -> "Iterator[Reservation]":
        """A request's part of the budget, empty at first and released after the block."""
        reservation = Reservation(self)
        try:
            yield reservation
        finally:
            self._end(reservation.size)

    def _end(self, size: int) -> None:
        """Release `size` bytes of an answered request."""
        self._held_bytes -= size
        if size < _FRAGMENTED_BYTES:
            return
        self._ended_bytes += size
        if self._ended_bytes >= _GIVE_BACK_BYTES:
            self._ended_bytes = 0
            asyncio.get_running_loop().run_in_executor(None, trim_heap)

    def reserve(self, count: int, size: int) -> None:
        """Reserve `count` more bytes for a body that then has `size` bytes. Raises Overloaded."""
        room = self._limit_bytes
        if size > room * _SMALL:
            room = int(room * (1 - _FOR_SMALL))
        if self._held_bytes + count > room:
            raise Overloaded("too many large bodies at the same time; send fewer at once")
        self._held_bytes += count


class Reservation:
    """One request's part of the budget, `size` bytes."""

    def __init__(self, body_budget: BodyBudget) -> None:
        self._bodies = body_budget
        self.slices = body_budget.slices
        self.size = 0

    def add(self, count: int) -> None:
        """Reserve `count` more bytes. Raises Overloaded."""
        self._bodies.reserve(count, self.size + count)
        self.size += count


async def read_body(request: AnyRequest, limit_bytes: int, timeout_s: float) -> bytes:
    """Read the body, inflated if it is compressed; at most `limit_bytes` before and after. The
    application must be behind BodyBudget's middleware.

    Raises UnknownCoding or InvalidRequest for a body that cannot be inflated, BodyTooLarge,
    BodyTooSlow, ClientDisconnected, or Overloaded when the body budget is used up.
    """
    coding = coding_of(request)
    announced = int(request.headers.get("content-length", "0"))
    if announced > limit_bytes:
        raise BodyTooLarge(limit_bytes)
    try:
        async with asyncio.timeout(timeout_s):
            return await _read(request, coding, limit_bytes)
    except TimeoutError as error:
        raise BodyTooSlow(timeout_s) from error


def reserve_beside_body(request: AnyRequest, size: int) -> None:
    """Reserve `size` bytes that the request needs beside its body, if positive, until it is
    answered. Raises Overloaded."""
    reservation: Reservation = request.scope["state"][_RESERVATION]
    reservation.add(max(0, size))


async def cancel_on_disconnect(request: AnyRequest, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled when the client disconnects.

    Call it after the body has been read. Raises ClientDisconnected, or what `work` raises.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_until_disconnected(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientDisconnected
        return task.result()
    finally:
        task.cancel()
        gone.cancel()


def check_json(request: AnyRequest) -> None:
    """Raise WrongContentType if the header names another type than JSON in UTF-8."""
    given = request.headers.get("content-type", "").lower()
    media_type, _, parameters = given.partition(";")
    # Some clients name no type at all, which is accepted. Another type is refused: it is usually
    # curl's default (form data) and not intended.
    if media_type.strip() and not _JSON_TYPE.fullmatch(media_type.strip()):
        raise WrongContentType(
            "found another content type, wanted the header Content-Type: application/json"
        )
    if any(charset not in _UTF8 for charset in _CHARSET.findall(parameters)):
        raise WrongContentType(
            "found another charset in Content-Type, wanted JSON in UTF-8, with charset=utf-8 or "
            "none"
        )


async def _read(request: AnyRequest, coding: str | None, limit_bytes: int) -> bytes:
    reservation: Reservation = request.scope["state"][_RESERVATION]
    body = BytesIO()  # takes less memory than a list of many small pieces

    def take(part: bytes) -> None:
        if body.tell() + len(part) > limit_bytes:
            raise BodyTooLarge(limit_bytes)
        reservation.add(len(part))
        body.write(part)

    inflater = None if coding is None else Inflater(coding, reservation.slices)
    came = 0
    more = True
    while more:
        message = await request.receive()
        if message["type"] != "http.request":
            raise ClientDisconnected
        more = message["more_body"]
        came += len(message["body"])
        if came > limit_bytes:
            raise BodyTooLarge(limit_bytes)
        if inflater is None:
            take(message["body"])
        else:
            await inflater.inflate(message["body"], take)
    if inflater is not None:
        inflater.end()
    return body.getvalue()  # is not copied


async def _until_disconnected(request: AnyRequest) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
