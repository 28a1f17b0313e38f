"""Count the values in a protocol buffer message before it is parsed.

A parser makes an object of every field, however small, in one uninterruptible step: a gigabyte for
60 MB of empty elements. The wire format allows counting fields without making objects. Format:
https://protobuf.dev/programming-guides/encoding.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from server.time_slices import TimeSlices

# Wire types. Groups (3 and 4) are refused: no message here has them, and they nest without limit.
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_KIND_BITS = 3
_VARINT_BITS = 64
# Fields counted in one time slice: a millisecond or two.
SLICE = 2000


class TooManyValues(Exception):
    """More values than allowed."""


class NoMessage(Exception):
    """Bytes that are not a message, or contain a group."""


@dataclass(frozen=True)
class Layout:
    """The length-delimited fields of a message, by number: nested `messages` with their layouts,
    `packed` numbers, and `raw` bytes that are not text. Other fields are texts or unknown."""

    messages: Mapping[int, "Layout"]
    packed: frozenset[int]
    raw: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Counted:
    """The contents of a message: the number of `values`, and the `texts` and `raw` bytes among
    them."""

    values: int
    texts: list[memoryview]
    raw: list[memoryview]


def layout_of(descriptor: Any, raw: Iterable[str] = ()) -> Layout:
    """The layout of a message without recursion; the fields named in `raw` are not text."""
    messages, packed, others = {}, set(), set()
    for field in descriptor.fields:
        if field.cpp_type == field.CPPTYPE_MESSAGE:
            messages[field.number] = layout_of(field.message_type, raw)
        elif field.is_repeated and field.cpp_type != field.CPPTYPE_STRING:
            packed.add(field.number)
        elif field.name in raw:
            others.add(field.number)
    return Layout(messages, frozenset(packed), frozenset(others))


async def count_values(message: bytes, layout: Layout, most: int, slices: TimeSlices) -> Counted:
    """Count the values in `message`. Every field at every depth is a value, known or not, and so is
    every byte of packed numbers, because each may be a number.

    Counts `most` values at most, SLICE fields in each time slice. Raises TooManyValues or
    NoMessage. A message that passes may still be invalid.
    """
    found = Counted(0, [], [])
    values = steps = place = 0
    end = len(message)
    around: list[tuple[int, Layout]] = []  # the enclosing messages
    while True:
        while place == end:
            if not around:
                return replace(found, values=values)
            end, layout = around.pop()
        tag, place = _varint(message, place, end)
        number, kind = tag >> _KIND_BITS, tag & 7
        values += 1
        if kind == _BYTES:
            length, place = _varint(message, place, end)
            if length > end - place:
                raise NoMessage
            if number in layout.messages:
                around.append((end, layout))
                end, layout = place + length, layout.messages[number]
            else:
                if number in layout.packed:
                    values += length
                elif length:
                    kept = found.raw if number in layout.raw else found.texts
                    kept.append(memoryview(message)[place : place + length])
                place += length
        elif kind == _VARINT:
            _, place = _varint(message, place, end)
        elif kind in (_FIXED64, _FIXED32):
            place += 8 if kind == _FIXED64 else 4
        else:
            raise NoMessage
        if place > end:
            raise NoMessage
        if values > most:
            raise TooManyValues
        steps += 1
        if steps % SLICE == 0:
            await slices.wait()


def _varint(message: bytes, place: int, end: int) -> tuple[int, int]:
    """The number at `place`, and the place after it. Raises NoMessage."""
    number = 0
    for shift in range(0, _VARINT_BITS, 7):
        if place >= end:
            raise NoMessage
        byte = message[place]
        place += 1
        number |= (byte & 0x7F) << shift
        if byte < 0x80:
            return number, place
    raise NoMessage
