"""Counting what a protocol buffer holds before it is parsed.

A parser makes an object of every field, however few bytes it has, in one step that nothing
interrupts: of 60 MB of empty elements a gigabyte. The wire format says enough to count the fields
without making any. Format: https://protobuf.dev/programming-guides/encoding.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
    """What a message's length-delimited fields hold, by number: the messages of other layouts, or
    numbers that are packed. All others are texts and bytes, or not known."""

    messages: Mapping[int, "Layout"]
    packed: frozenset[int]


def layout_of(descriptor: Any) -> Layout:
    """The layout of a message whose descriptor refers to no message that holds itself."""
    messages, packed = {}, set()
    for field in descriptor.fields:
        if field.cpp_type == field.CPPTYPE_MESSAGE:
            messages[field.number] = layout_of(field.message_type)
        elif field.is_repeated and field.cpp_type != field.CPPTYPE_STRING:
            packed.add(field.number)
    return Layout(messages, frozenset(packed))


async def count_values(message: bytes, layout: Layout, most: int) -> int:
    """How many values parsing would make of `message`: every field at every depth, known or not,
    and every byte of packed numbers, of which each may be one.

    Looks at `most` fields at most, and lets others have their turn meanwhile. Raises TooManyValues
    or NoMessage; a message that passes may still be none.
    """
    values = steps = place = 0
    end = len(message)
    around: list[tuple[int, Layout]] = []  # the messages that this one is in
    while True:
        while place == end:
            if not around:
                return values
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
                place += length
                values += length if number in layout.packed else 0
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
            await asyncio.sleep(0)


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
