"""Decode a large JSON body item by item, so that other requests run between two texts or images.

The whole body is first read with its lists left as they are, which copies none of their texts.
"""

from collections.abc import Mapping
from functools import cache
from types import UnionType
from typing import Annotated, Any, NamedTuple, TypeVar, Union, get_args, get_origin

import msgspec
from msgspec import UNSET, Raw, UnsetType

from server.json_body import decode
from server.time_slices import SLICE_BYTES, Pace, TimeSlices

T = TypeVar("T")

_ITEMS = msgspec.json.Decoder(list[Raw])
_OPENING = ord("[")


class _List(NamedTuple):
    """Decoders of a field that may be a list, and of an item of the list."""

    field: "msgspec.json.Decoder[Any]"
    item: "msgspec.json.Decoder[Any]"


class _Outline(NamedTuple):
    """A decoder of a struct whose fields in `lists` stay undecoded."""

    decoder: "msgspec.json.Decoder[Any]"
    lists: Mapping[str, _List]


async def decode_items(decoder: "msgspec.json.Decoder[T]", body: bytes, slices: TimeSlices) -> T:
    """What `decode` gives, and raises, for a body that `server.json_size` has measured. Of a large
    one, each time slice decodes items of SLICE_BYTES, or one that is larger; two walk over all of
    it, without copying texts."""
    await slices.before(len(body))
    outline = _outline_of(decoder) if len(body) > SLICE_BYTES else None
    if outline is None:
        return decode(decoder, body)
    found = msgspec.structs.asdict(decode(outline.decoder, body))
    pace = Pace(slices)
    for name, one in outline.lists.items():
        if found[name] is not UNSET:
            await slices.before(len(memoryview(found[name])))
            found[name] = await _value(one, found[name], name, pace)
    given = {name: value for name, value in found.items() if value is not UNSET}
    return decoder.type(**given)


async def _value(one: _List, raw: Raw, name: str, pace: Pace) -> Any:
    """The field `name`. Raises InvalidRequest."""
    text = memoryview(raw)
    if text[0] != _OPENING:
        return decode(one.field, text, (name,))
    values = []
    items: list[Raw] = decode(_ITEMS, text, (name,))
    for index, item in enumerate(items):
        part = memoryview(item)
        await pace.step(len(part))
        values.append(decode(one.item, part, (name, index)))
    return values


@cache
def _outline_of(decoder: "msgspec.json.Decoder[Any]") -> _Outline | None:
    """The outline of the decoder's struct; None for one without lists."""
    lists: dict[str, _List] = {}
    fields: list[Any] = []
    for field in msgspec.structs.fields(decoder.type):
        item = _item_of(field.type)
        kind = field.type if item is None else Raw
        if field.required:
            fields.append((field.encode_name, kind))
        else:
            fields.append((field.encode_name, kind | UnsetType, UNSET))
        if item is not None:
            lists[field.encode_name] = _List(*(_like(decoder, one) for one in (field.type, item)))
    if not lists:
        return None
    outline = msgspec.defstruct(decoder.type.__name__, fields, kw_only=True)
    return _Outline(_like(decoder, outline), lists)


def _like(decoder: "msgspec.json.Decoder[Any]", kind: Any) -> "msgspec.json.Decoder[Any]":
    """A decoder of `kind` that reads flags and numbers as `decoder` does."""
    return msgspec.json.Decoder(kind, dec_hook=decoder.dec_hook)


def _item_of(kind: Any) -> Any:
    """The type of an item of a field that may be a list; None of another."""
    if get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    if kind is Any:
        return Any
    if get_origin(kind) is list:
        return get_args(kind)[0]
    options = get_args(kind) if get_origin(kind) in (Union, UnionType) else ()
    return next((item for one in options if (item := _item_of(one)) is not None), None)
