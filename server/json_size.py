"""What decoding a JSON body may take, read from its bytes before any decoder sees them.

Decoding holds up every other request, and memory and time go with the number of values, not of
bytes: 64 MB of text take 100 ms and once or twice their size, 64 MB of empty lists 5 s and 2 GB.
"""

import numpy as np
import numpy.typing as npt

from server.characters import WIDEST, Bytes, Characters
from server.errors import InvalidRequest
from server.time_slices import SLICE_BYTES, TimeSlices

# A request's texts stand in lists or objects with a few fields: so many values for each text that
# one request may have, and so many in any case, for fields that are ignored.
_VALUES_PER_TEXT = 32
_FREE_VALUES = 1 << 18
# What msgspec makes of one value at most, without the characters of texts: measured 16 to 81.
_VALUE_BYTES = 96
# Of a body that is smaller a rough bound does, which takes 5 µs instead of 40.
_SMALL_BYTES = 1 << 12
# One of these stands before every key and every value but the first.
_SEPARATORS = b",:[{"
_QUOTE, _BACKSLASH, _U = b'"\\u'
_NO_MARKS = bytes(set(range(256)) - {*_SEPARATORS, _QUOTE})
# As \u4e00 is longer than the one character that it stands for.
_LONGER = 5

Places = npt.NDArray[np.intp]


def most_values(texts: int) -> int:
    """How many values, keys included, a body may hold where a request may have `texts` texts:
    2^18 + 32 · texts."""
    return _FREE_VALUES + _VALUES_PER_TEXT * texts


async def decoded_bytes(body: bytes, most: int, slices: TimeSlices) -> int:
    """A bound on the bytes that decoding `body` takes beside it: 96 for each value, and every
    character as wide as the widest.

    Raises InvalidRequest as soon as more than `most` values are found. Reads slices, each in a turn of
    its own; what is no JSON gets some number, and is refused by the decoder.
    """
    if len(body) < _SMALL_BYTES:
        found = 1 + sum(map(body.count, _SEPARATORS))  # as if all stood outside of texts
        if found <= most:
            return found * _VALUE_BYTES + len(body) * WIDEST
    scan = _Scan()
    begin = 0
    while begin < len(body):
        if len(body) > SLICE_BYTES:
            await slices.wait()
        part = _slice(body, begin)
        scan.take(part)
        if scan.values > most:
            raise InvalidRequest(
                "too_long",
                (),
                f"found more than {most} values, wanted at most that many in one body; send fewer "
                "texts, or leave fields out that are not read",
            )
        begin += len(part)
    return scan.values * _VALUE_BYTES + scan.characters.size


class _Scan:
    """What the slices so far hold: `values` (at least 1 for any JSON; what stands within texts does
    not count), and `characters`."""

    def __init__(self) -> None:
        self.values = 1
        self.characters = Characters()
        self._in_text = 0

    def take(self, part: bytes) -> None:
        """Read the next slice, which does not end within an escape."""
        raw = np.frombuffer(part, np.uint8)
        escaped = _escaped(raw)
        if escaped.size:
            plain = raw.copy()
            plain[escaped] = 0  # an escaped quotation mark is none
            part = plain.tobytes()
        marks = np.frombuffer(part.translate(None, _NO_MARKS), np.uint8)
        quotes = marks == _QUOTE
        # The number of quotation marks so far is odd within a text; only its last bit is looked at.
        outside = (np.cumsum(quotes, dtype=np.uint8) ^ self._in_text) & 1 == 0
        self.values += int(np.count_nonzero(outside & ~quotes))
        self._in_text ^= int(np.count_nonzero(quotes)) & 1
        self._measure(raw, escaped[raw[escaped] == _U])

    def _measure(self, raw: Bytes, named: Places) -> None:
        """Count the characters and find the widest; `named` are the places of u in \\u4e00."""
        self.characters.take(raw)
        self.characters.count -= _LONGER * named.size
        # \ud83d begins a wide character; other characters that begin with d are taken for one.
        paired = bool((raw[named[named < raw.size - 1] + 1] | 0x20 == ord("d")).any())
        if named.size:
            self.characters.widen(WIDEST if paired else 2)


def _escaped(raw: Bytes) -> Places:
    """Where characters stand that a backslash escapes: of a run of backslashes, every other one
    escapes what is behind it."""
    slashes = np.flatnonzero(raw == _BACKSLASH)
    begins = np.diff(slashes, prepend=-2) != 1
    runs = slashes[begins][np.cumsum(begins) - 1]
    places: Places = slashes[(slashes - runs) % 2 == 0] + 1
    return places[places < raw.size]


def _slice(body: bytes, begin: int) -> bytes:
    """The next slice, one byte longer where its last would begin an escape."""
    part = body[begin : begin + SLICE_BYTES]
    escaping = (len(part) - len(part.rstrip(b"\\"))) % 2
    return body[begin : begin + SLICE_BYTES + 1] if escaping else part
