"""Counting what a protocol buffer holds before it is parsed.

A parser makes an object of every field, however few bytes it has, in one step that nothing
interrupts: of 60 MB of empty elements a gigabyte. The wire format says enough to count the fields
without making any. Format: https://protobuf.dev/programming-guides/encoding.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from server.time_slices import TimeSlices

# Kinds of fields on the wire. Groups (3 and 4) are in no message here, and nest without a bound.
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_KIND_BITS = 3
_VARINT_BITS = 64
# So many fields are looked at before others have their turn: a millisecond or two.
SLICE = 2000


class TooManyValues(Exception):
    """More than there may be."""


class NoMessage(Exception):
    """Bytes that are no message, or hold a group."""


@dataclass(frozen=True)
class Layout:
    """What a message's length-delimited fields hold, by number: the messages of other layouts,
    numbers that are packed, or `raw` bytes that are no text. All others are texts, or not known."""

    messages: Mapping[int, "Layout"]
    packed: frozenset[int]
    raw: frozenset[int] = frozenset()


@dataclass(frozen=True)
class Counted:
    """What parsing would make of a message: how many `values`, of which some are `texts`, and what
    is `raw`."""

    values: int
    texts: list[memoryview]
    raw: list[memoryview]


def layout_of(descriptor: Any, raw: Iterable[str] = ()) -> Layout:
    """The layout of a message whose descriptor refers to no message that holds itself; fields of
    the names `raw` hold no text."""
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
    """What parsing would make of `message`. Every field at every depth is a value, known or not,
    and every byte of packed numbers, of which each may be one.

    Looks at `most` fields at most, some in each turn. Raises TooManyValues or NoMessage; a message
    that passes may still be none.
    """
    found = Counted(0, [], [])
    values = steps = place = 0
    end = len(message)
    around: list[tuple[int, Layout]] = []  # the messages that this one is in
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
    """The number that begins at `place`, and the place behind it. Raises NoMessage."""
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
