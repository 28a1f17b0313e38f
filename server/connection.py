"""One request's connection: reading its body within bounds, and noticing that the caller left."""

import asyncio
import re
from collections.abc import Awaitable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from litestar.enums import ScopeType
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

# A body of at most this share of all room is small, and this share is left to small ones: a few
# large bodies that never end must not shut everybody out.
_SMALL = 1 / 512
_FOR_SMALL = 1 / 8
# After so many bytes of bodies of at least that size the heaps are given back: what arrives is cut
# into pieces of some KiB, of which the C library keeps the room.
_GIVE_BACK_BYTES = 64 << 20
_FRAGMENTED_BYTES = 1 << 20
# Where a request's share of the room stands in its scope's state.
_RESERVATION = "body_reservation"
# As FastAPI and axum read it: application/json, or what is written in it, as application/x+json.
_JSON_TYPE = re.compile(r"application/([^/]*\+)?json")
_CHARSET = re.compile(r"(?:^|;)\s*charset\s*=\s*[\"']?([^\"';\s]*)")
_UTF8 = ("", "utf-8", "utf8", "us-ascii", "ascii")


class BodyBudget:
    """The memory that all bodies together may take, `limit_bytes`.

    A body counts from its first byte until its request is answered. What is made of it takes the
    place of the bytes; where it takes more, that counts too. Large ones are looked at and decoded
    in `turns`, whatever the protocol they came with.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._held_bytes = 0
        self._ended_bytes = 0
        self.slices = TimeSlices()

    def middleware(self, app: ASGIApp) -> ASGIApp:
        """`app`, whose requests give their bodies' room back when they end."""

        async def middleware_app(scope: Scope, receive: Receive, send: Send) -> None:
            if scope["type"] != ScopeType.HTTP:
                await app(scope, receive, send)
                return
            reservation = scope["state"][_RESERVATION] = _Reservation(self)
            try:
                await app(scope, receive, send)
            finally:
                self._end(reservation.size)

        return middleware_app

    @contextmanager
    def reserving(self, size: int) -> Iterator[None]:
        """Count a body that came whole, of `size` bytes, for the block. Raises Overloaded."""
        self.reserve(size, size)
        try:
            yield
        finally:
            self._end(size)

    def _end(self, size: int) -> None:
        """A request that had `size` bytes of the room is answered."""
        self._held_bytes -= size
        if size < _FRAGMENTED_BYTES:
            return
        self._ended_bytes += size
        if self._ended_bytes >= _GIVE_BACK_BYTES:
            self._ended_bytes = 0
            asyncio.get_running_loop().run_in_executor(None, trim_heap)

    def reserve(self, count: int, size: int) -> None:
        """Count `count` more bytes in, of a body that has `size` with them. Raises Overloaded."""
        room = self._limit_bytes
        if size > room * _SMALL:
            room = int(room * (1 - _FOR_SMALL))
        if self._held_bytes + count > room:
            raise Overloaded("too many large bodies at the same time; send fewer at once")
        self._held_bytes += count


class _Reservation:
    """One request's body: `size` bytes of the room."""

    def __init__(self, body_budget: BodyBudget) -> None:
        self._bodies = body_budget
        self.slices = body_budget.slices
        self.size = 0

    def add(self, count: int) -> None:
        """Raises Overloaded."""
        self._bodies.reserve(count, self.size + count)
        self.size += count


async def read_body(request: AnyRequest, limit_bytes: int, timeout_s: float) -> bytes:
    """The body's bytes, inflated where they come compressed, in an application that `Bodies`
    guards; at most `limit_bytes` before and after.

    Raises UnknownCoding or InvalidRequest for a body that cannot be inflated, BodyTooLarge, BodyTooSlow,
    ClientDisconnected, or Overloaded when all bodies together leave no room.
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
    """Count `size` bytes, if any, that the request needs beside those of its body, until it is
    answered. Raises Overloaded."""
    reservation: _Reservation = request.scope["state"][_RESERVATION]
    reservation.add(max(0, size))


async def cancel_on_disconnect(request: AnyRequest, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled when the caller hangs up.

    To be called when the body has been read. Raises ClientDisconnected, or what `work` raises.
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
    """Raise WrongContentType for a body that says that it is something else than JSON in UTF-8."""
    given = request.headers.get("content-type", "").lower()
    media_type, _, parameters = given.partition(";")
    # Some clients name no type at all; one that names another type is told, as it is curl's
    # default (form data) more often than intent.
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
    reservation: _Reservation = request.scope["state"][_RESERVATION]
    body = bytearray()  # which takes less than a list of its bytes that come one by one

    def take(part: bytes) -> None:
        if len(body) + len(part) > limit_bytes:
            raise BodyTooLarge(limit_bytes)
        reservation.add(len(part))
        body.extend(part)

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
    return bytes(body)


async def _until_disconnected(request: AnyRequest) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
