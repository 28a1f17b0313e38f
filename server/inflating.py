"""Compressed bodies, gzip or deflate: inflated in small steps while they come."""

import zlib
from collections.abc import Callable

from server.errors import AnyRequest, InvalidRequest, UnknownCoding
from server.time_slices import SLICE_BYTES, TimeSlices

# The codings of RFC 9110 8.4.1 that are taken. Triton takes the same.
TAKEN = ("gzip", "deflate")
_HEADER = "Content-Encoding"
_OLD_NAMES = {"x-gzip": "gzip"}
# What one step reads at most; as blocks that hold nothing it takes a millisecond.
_STEP_BYTES = 1 << 13
_GZIP_WINDOW = 16 + zlib.MAX_WBITS
# The method that the first byte of a zlib stream names in its low half.
_METHOD_BITS, _DEFLATED = 0x0F, 8


def coding_of(request: AnyRequest) -> str | None:
    """How the request's body is compressed, one of `TAKEN`; None when it is not.

    Raises UnknownCoding for another coding, and for several one over the other.
    """
    words = ",".join(request.headers.getall(_HEADER, [])).lower().split(",")
    codings = [word for given in words if (word := given.strip()) not in ("", "identity")]
    if not codings:
        return None
    coding = _OLD_NAMES.get(codings[0], codings[0])
    if len(codings) > 1 or coding not in TAKEN:
        raise UnknownCoding(TAKEN)
    return coding


class Inflater:
    """Inflates one body, whose pieces it is given as they come.

    A step reads at most 8 KiB and makes at most 256 KiB; each but a body's first has a turn of its
    own in `turns`. gzip may have several members, one behind the other (RFC 1952). deflate is
    zlib's form (RFC 1950, as HTTP means it) or the bare one (RFC 1951, as some clients send it).
    """

    def __init__(self, coding: str, slices: TimeSlices) -> None:
        self._coding = coding
        self._slices = slices
        # What is being inflated: a member of gzip, or all.
        self._stream: zlib._Decompress | None = None

    async def inflate(self, piece: bytes, take: Callable[[bytes], None]) -> None:
        """Have `take` called with every part that the next `piece` becomes; what it raises ends
        the work. Raises InvalidRequest."""
        for begin in range(0, len(piece), _STEP_BYTES):
            left = piece[begin : begin + _STEP_BYTES]
            unfinished = True
            while unfinished:
                if self._stream is not None:
                    await self._slices.wait()
                part, left = self._step(left)
                take(part)
                # A full part may be a part of what has been read already.
                unfinished = bool(left) or len(part) == SLICE_BYTES

    def end(self) -> None:
        """Say that all pieces have come. Raises InvalidRequest when the last is not the stream's end."""
        if self._stream is None or not self._stream.eof:
            raise self._broken("is cut off")

    def _step(self, data: bytes) -> tuple[bytes, bytes]:
        """A part of what `data` becomes, and what is left of `data`."""
        part = bytearray()
        while True:
            stream = self._open(data)
            try:
                part += stream.decompress(data, SLICE_BYTES - len(part))
            except zlib.error:
                raise self._broken("is damaged, or none") from None
            data = stream.unused_data or stream.unconsumed_tail
            if not data or len(part) == SLICE_BYTES:
                return bytes(part), data

    def _open(self, data: bytes) -> "zlib._Decompress":
        """What inflates `data`: another member of gzip begins where the last one has ended."""
        stream = self._stream
        if stream is None or (stream.eof and data):
            if self._coding == "gzip":
                window = _GZIP_WINDOW
            elif stream is not None:
                raise self._broken("has other bytes behind its end")
            else:
                zlibs = data[0] & _METHOD_BITS == _DEFLATED
                window = zlib.MAX_WBITS if zlibs else -zlib.MAX_WBITS
            stream = self._stream = zlib.decompressobj(window)
        return stream

    def _broken(self, how: str) -> InvalidRequest:
        message = f"found a {self._coding} stream that {how}, wanted a whole one and nothing else"
        return InvalidRequest("value_error", (_HEADER,), message)
