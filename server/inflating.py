"""Inflate compressed bodies (gzip or deflate) in small steps while they arrive."""

import zlib
from collections.abc import Callable

from server.errors import AnyRequest, InvalidRequest, UnknownCoding
from server.time_slices import SLICE_BYTES, TimeSlices

# The supported codings of RFC 9110 8.4.1. Triton supports the same.
TAKEN = ("gzip", "deflate")
_HEADER = "Content-Encoding"
_OLD_NAMES = {"x-gzip": "gzip"}
# The most bytes that one step reads; as empty blocks they take a millisecond.
_STEP_BYTES = 1 << 13
_GZIP_WINDOW = 16 + zlib.MAX_WBITS
# The compression method, in the low half of a zlib stream's first byte.
_METHOD_BITS, _DEFLATED = 0x0F, 8


def coding_of(request: AnyRequest) -> str | None:
    """The coding of the request's body, one of `TAKEN`; None without compression.

    Raises UnknownCoding for another coding, and for several codings on top of each other.
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
    """Inflates one body piece by piece.

    A step reads at most 8 KiB and writes at most 256 KiB. Every step but the first waits for a time
    slice in `slices`. gzip may have several members (RFC 1952). deflate is zlib's format (RFC 1950,
    as in HTTP) or the raw one (RFC 1951, as some clients send it).
    """

    def __init__(self, coding: str, slices: TimeSlices) -> None:
        self._coding = coding
        self._slices = slices
        # The current stream: a gzip member, or the whole body.
        self._stream: zlib._Decompress | None = None

    async def inflate(self, piece: bytes, take: Callable[[bytes], None]) -> None:
        """Inflate the next `piece` and call the callback `take` with every part. An error of `take`
        ends the work. Raises InvalidRequest."""
        for begin in range(0, len(piece), _STEP_BYTES):
            left = piece[begin : begin + _STEP_BYTES]
            unfinished = True
            while unfinished:
                if self._stream is not None:
                    await self._slices.wait()
                part, left = self._step(left)
                take(part)
                # After a full part, more output may be pending without new input.
                unfinished = bool(left) or len(part) == SLICE_BYTES

    def end(self) -> None:
        """Finish after the last piece. Raises InvalidRequest if the stream is incomplete."""
        if self._stream is None or not self._stream.eof:
            raise self._broken("is cut off")

    def _step(self, data: bytes) -> tuple[bytes, bytes]:
        """Inflate a part of `data`. Returns the output and the rest of `data`."""
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
        """The decompressor for `data`; after the end of a gzip member, a new one."""
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
