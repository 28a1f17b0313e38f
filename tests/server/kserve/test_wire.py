"""Protocol buffers are counted before they are parsed, in bounded steps."""

import asyncio
import random
from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.message import DecodeError

from server.kserve import wire
from server.kserve.messages import Messages
from server.kserve.wire import Layout, NoMessage, TooManyValues, count_values, layout_of
from server.time_slices import TimeSlices

MESSAGES = Messages()
REQUESTS = [
    "ModelInferRequest",
    "ModelReadyRequest",
    "ModelStatisticsRequest",
    "RepositoryIndexRequest",
    "RepositoryModelLoadRequest",
]
INFER = layout_of(MESSAGES["ModelInferRequest"].DESCRIPTOR)
MANY = 10**9
UNKNOWN = 1000
_PACKED = " packed"
VARINT, FIXED64, BYTES, GROUP, END_GROUP, FIXED32 = range(6)


def varint(number: int) -> bytes:
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])


def field(number: int, kind: int, content: bytes = b"") -> bytes:
    length = varint(len(content)) if kind == BYTES else b""
    return varint(number << 3 | kind) + length + content


def count(message: bytes, most: int = MANY, layout: Layout = INFER) -> int:
    return asyncio.run(count_values(message, layout, most, TimeSlices())).values


def infer(**fields: Any) -> bytes:
    return MESSAGES["ModelInferRequest"](**fields).SerializeToString()


@pytest.mark.parametrize(
    ("message", "values"),
    [
        (b"", 0),
        (infer(model_name="m", id="i"), 2),
        (infer(raw_input_contents=[b"", b"x" * 1000]), 2),
        (infer(inputs=[{"contents": {"bytes_contents": [b"", b"", b""]}}]), 5),
        (infer(inputs=[{"shape": [1, 300]}]), 2 + 3),  # packed: one byte may be one number
        (field(5, BYTES, field(3, VARINT, b"\x01") * 2), 3),
        (infer(inputs=[{"contents": {"fp64_contents": [1.0, 2.0]}}]), 3 + 16),
        (infer(parameters={"truncate": {"string_param": "END"}}), 4),
        (infer(inputs=[{}, {}], outputs=[{}]), 3),
        (field(UNKNOWN, VARINT, b"\x00") + field(UNKNOWN, BYTES, b"\xff" * 9), 2),
        (field(UNKNOWN, FIXED32, bytes(4)) + field(UNKNOWN, FIXED64, bytes(8)), 2),
        (field(5, VARINT, b"\x01") + field(1, FIXED32, bytes(4)), 2),  # known, of another kind
    ],
)
def test_values_are_counted(message: bytes, values: int) -> None:
    MESSAGES["ModelInferRequest"].FromString(message)
    assert count(message) == values
    assert count(message, most=values) == values
    if values:
        with pytest.raises(TooManyValues):
            count(message, most=values - 1)


def units(descriptor: Any) -> Iterator[tuple[str, bytes]]:
    """The path of every field at every depth, and what is repeated to repeat it."""
    for one in descriptor.fields:
        if one.cpp_type in (one.CPPTYPE_STRING, one.CPPTYPE_MESSAGE):
            yield one.name, field(one.number, BYTES)
        else:
            kinds = {one.TYPE_DOUBLE: (FIXED64, bytes(8)), one.TYPE_FLOAT: (FIXED32, bytes(4))}
            kind, content = kinds.get(one.type, (VARINT, b"\x00"))
            yield one.name, field(one.number, kind, content)
            if one.is_repeated:
                yield f"{one.name}{_PACKED}", content
        if one.message_type is not None:
            yield from ((f"{one.name}.{path}", unit) for path, unit in units(one.message_type))
    yield "unknown", field(UNKNOWN, VARINT, b"\x00")


def nested(descriptor: Any, path: str, content: bytes) -> bytes:
    """`content` at `path`."""
    name, _, inside = path.partition(".")
    if not inside and not name.endswith(_PACKED):
        return content
    found = descriptor.fields_by_name[name.removesuffix(_PACKED)]
    deeper = nested(found.message_type, inside, content) if inside else content
    return field(found.number, BYTES, deeper)


class Watched(bytes):
    """Bytes that count how often one of them is looked at."""

    looked = 0

    def __getitem__(self, key: Any) -> Any:
        self.looked += 1
        return super().__getitem__(key)


@pytest.mark.parametrize("name", REQUESTS)
def test_no_field_can_be_repeated_without_a_bound(name: str) -> None:
    """A refusal costs as much as the bound says, however long the message is."""
    descriptor = MESSAGES[name].DESCRIPTOR
    layout, most = layout_of(descriptor), 50
    for path, unit in units(descriptor):
        looked = set()
        for times in (100, 10_000):
            message = Watched(nested(descriptor, path, unit * times))
            MESSAGES[name].FromString(bytes(message))
            with pytest.raises(TooManyValues):
                count(message, most, layout)
            looked.add(message.looked)
        assert max(looked) <= 6 * (most + 10), path
        assert max(looked) - min(looked) <= 12, path  # lengths take more bytes, and no more


@pytest.mark.parametrize(
    "message",
    [
        b"\xff" * 20,
        b"\x0a",
        field(1, BYTES, b"name")[:-1],
        field(5, BYTES, field(5, BYTES, b"contents")[:-1]),  # longer than what it is in
        field(5, BYTES, b"\x08"),
        field(UNKNOWN, FIXED64, bytes(7)),
        field(5, BYTES, field(UNKNOWN, FIXED32, bytes(3))) + bytes(9),
        field(1, 6),
        field(1, 7),
        field(UNKNOWN, GROUP) + field(UNKNOWN, END_GROUP),
        field(UNKNOWN, GROUP) * 100_000,
    ],
)
def test_what_is_no_message_is_refused(message: bytes) -> None:
    with pytest.raises(NoMessage):
        count(message)


def test_what_is_parsed_is_counted() -> None:
    """Bytes that are changed at random: the counting refuses nothing that the parser takes, but
    groups."""
    chance = random.Random(5)
    whole = infer(
        model_name="model",
        parameters={"truncate": {"string_param": "END"}, "n": {"int64_param": 7}},
        inputs=[
            {"name": "query", "shape": [1, 1], "contents": {"bytes_contents": [b"a", b""]}},
            {"name": "passage", "shape": [300, 1], "contents": {"int_contents": [1, 2, 3]}},
        ],
        outputs=[{"name": "logit"}],
        raw_input_contents=[b"\x01\x00\x00\x00a"],
    )
    taken = 0
    for _ in range(4000):
        changed = bytearray(whole)
        for _ in range(chance.randint(1, 3)):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        message = bytes(changed[: chance.randint(1, len(changed))])
        try:
            MESSAGES["ModelInferRequest"].FromString(message)
        except DecodeError:
            continue
        try:
            taken += count(message) > 0
        except NoMessage:
            assert any(byte & 7 in (GROUP, END_GROUP) for byte in message)
    assert taken > 100


@pytest.mark.parametrize("slices", [0, 1, 5])
def test_others_run_between_time_slices(slices: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "SLICE", 100)
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def both() -> int:
        beside = asyncio.create_task(other())
        found = await count_values(field(7, BYTES) * (100 * slices + 1), INFER, MANY, TimeSlices())
        beside.cancel()
        return found.values

    assert asyncio.run(both()) == 100 * slices + 1
    assert slices <= turns <= 2 * slices
