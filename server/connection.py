"""One request's connection: reading its body within bounds, and noticing that the caller left."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from runtime.errors import Overloaded
from server.errors import (
    AnyRequest,
    BodyTooLarge,
    BodyTooSlow,
    ClientGone,
    WrongContentType,
)

T = TypeVar("T")

# A client that is still sending when the connection closes may never see the answer.
_LINGER_S = 1.0


class Bodies:
    """The memory that all bodies together may take while they arrive: `limit_bytes`."""

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._held_bytes = 0

    def hold(self, count: int) -> None:
        """Count so many bytes in, or out when negative. Raises Overloaded."""
        if count > 0 and self._held_bytes + count > self._limit_bytes:
            raise Overloaded("too many large bodies arrive at the same time; send fewer at once")
        self._held_bytes += count


async def read_body(
    request: AnyRequest, bodies: Bodies, limit_bytes: int, timeout_s: float
) -> bytes:
    """The body's bytes, at most `limit_bytes`.

    Raises WrongContentType for a compressed body, BodyTooLarge, BodyTooSlow, ClientGone, or
    Overloaded when `bodies` have no room.
    """
    _refuse_encoding(request)
    announced = int(request.headers.get("content-length", "0"))
    if announced > limit_bytes:
        if "expect" not in request.headers:
            await _linger(request)
        raise BodyTooLarge(limit_bytes)
    try:
        async with asyncio.timeout(timeout_s):
            return await _read(request, bodies, limit_bytes)
    except TimeoutError as error:
        raise BodyTooSlow(timeout_s) from error


async def answer_or_leave(request: AnyRequest, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled when the caller hangs up.

    To be called when the body has been read. Raises ClientGone, or what `work` raises.
    """
    task = asyncio.ensure_future(work)
    gone = asyncio.ensure_future(_until_gone(request))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise ClientGone
        return task.result()
    finally:
        task.cancel()
        gone.cancel()


def _refuse_encoding(request: AnyRequest) -> None:
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("", "identity"):
        raise WrongContentType("found a compressed body, wanted one without Content-Encoding")


def check_json(request: AnyRequest) -> None:
    """Raise WrongContentType for a body that says that it is something else than JSON."""
    media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    # Some clients name no type at all; one that names another type is told, as it is curl's
    # default (form data) more often than intent.
    if media_type not in ("", "application/json"):
        raise WrongContentType(
            "found another content type, wanted the header Content-Type: application/json"
        )


async def _read(request: AnyRequest, bodies: Bodies, limit_bytes: int) -> bytes:
    chunks = []
    size = held = 0
    try:
        while True:
            message = await request.receive()
            if message["type"] != "http.request":
                raise ClientGone
            chunk = message["body"]
            size += len(chunk)
            if size > limit_bytes:
                await _linger(request)
                raise BodyTooLarge(limit_bytes)
            bodies.hold(len(chunk))
            held += len(chunk)
            chunks.append(chunk)
            if not message["more_body"]:
                return b"".join(chunks)
    finally:
        bodies.hold(-held)


async def _linger(request: AnyRequest) -> None:
    """Drop what still comes for a moment, so that the client can read the refusal."""
    try:
        async with asyncio.timeout(_LINGER_S):
            while True:
                message = await request.receive()
                if message["type"] != "http.request" or not message["more_body"]:
                    return
    except TimeoutError:
        return


async def _until_gone(request: AnyRequest) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
