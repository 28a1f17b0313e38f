"""A bound on the memory of a decoded JSON body, computed from its bytes before it is decoded.

Decoding blocks every other request. Its time and memory grow with the number of values, not of
bytes: 64 MB of text take 100 ms and once or twice their size, 64 MB of empty lists 5 s and 2 GB.
"""

import numpy as np
import numpy.typing as npt

from server.characters import WIDEST, Bytes, Characters
from server.errors import InvalidRequest
from server.time_slices import SLICE_BYTES, TimeSlices

# The most values in a body: so many for each text that a request may have, because texts are in
# lists or objects with a few fields; and so many more for ignored fields.
_VALUES_PER_TEXT = 32
_FREE_VALUES = 1 << 18
# The most memory of one decoded value, without the characters of texts: measured 16 to 81.
_VALUE_BYTES = 96
# Smaller bodies get a rough bound, which takes 5 µs instead of 40.
_SMALL_BYTES = 1 << 12
# One of these precedes every key and every value but the first.
_SEPARATORS = b",:[{"
_QUOTE, _BACKSLASH, _U = b'"\\u'
_NO_MARKS = bytes(set(range(256)) - {*_SEPARATORS, _QUOTE})
# An escape like \u4e00 is so much longer than its character.
_LONGER = 5

Places = npt.NDArray[np.intp]


def most_values(texts: int) -> int:
    """The most values, keys included, of a body when a request may have `texts` texts:
    2^18 + 32 · texts."""
    return _FREE_VALUES + _VALUES_PER_TEXT * texts


async def decoded_bytes(body: bytes, most: int, slices: TimeSlices) -> int:
    """A bound on the bytes of the decoded `body`: 96 for each value, and every character as wide as
    the widest.

    Raises InvalidRequest as soon as more than `most` values are found. Reads one slice in each time
    slice. A body that is not JSON gets some number; the decoder refuses it later.
    """
    if len(body) < _SMALL_BYTES:
        found = 1 + sum(map(body.count, _SEPARATORS))  # counts separators in texts as well
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
    """Counts of the slices so far: `values` (at least 1 for any JSON; separators in texts do not
    count) and `characters`."""

    def __init__(self) -> None:
        self.values = 1
        self.characters = Characters()
        self._in_text = 0

    def take(self, part: bytes) -> None:
        """Count the next slice, which must not end within an escape."""
        raw = np.frombuffer(part, np.uint8)
        escaped = _escaped(raw)
        if escaped.size:
            plain = raw.copy()
            plain[escaped] = 0  # an escaped quotation mark does not count
            part = plain.tobytes()
        marks = np.frombuffer(part.translate(None, _NO_MARKS), np.uint8)
        quotes = marks == _QUOTE
        # Within a text the number of quotation marks so far is odd; its last bit is enough.
        outside = (np.cumsum(quotes, dtype=np.uint8) ^ self._in_text) & 1 == 0
        self.values += int(np.count_nonzero(outside & ~quotes))
        self._in_text ^= int(np.count_nonzero(quotes)) & 1
        self._measure(raw, escaped[raw[escaped] == _U])

    def _measure(self, raw: Bytes, named: Places) -> None:
        """Count the characters and find the widest; `named` are the indexes of u in \\u4e00."""
        self.characters.take(raw)
        self.characters.count -= _LONGER * named.size
        # \ud83d begins a wide character; other escapes that begin with d count as wide too.
        paired = bool((raw[named[named < raw.size - 1] + 1] | 0x20 == ord("d")).any())
        if named.size:
            self.characters.widen(WIDEST if paired else 2)


def _escaped(raw: Bytes) -> Places:
    """Indexes of escaped characters: in a run of backslashes, every other one escapes the next
    character."""
    slashes = np.flatnonzero(raw == _BACKSLASH)
    begins = np.diff(slashes, prepend=-2) != 1
    runs = slashes[begins][np.cumsum(begins) - 1]
    places: Places = slashes[(slashes - runs) % 2 == 0] + 1
    return places[places < raw.size]


def _slice(body: bytes, begin: int) -> bytes:
    """The next slice, one byte longer if it would end with the start of an escape."""
    part = body[begin : begin + SLICE_BYTES]
    escaping = (len(part) - len(part.rstrip(b"\\"))) % 2
    return body[begin : begin + SLICE_BYTES + 1] if escaping else part
