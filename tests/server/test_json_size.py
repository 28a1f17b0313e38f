"""What a JSON body becomes is bounded by counts, before any of it is decoded."""

import asyncio
import json
import random
import tracemalloc
from typing import Any

import msgspec
import pytest

from server import json_size
from server.errors import Failure, InvalidRequest
from server.json_size import decoded_bytes, most_values
from server.time_slices import TimeSlices
from tests.server.described import OPERATIONS
from tests.server.in_process import Serve

MOST = most_values(512)
MIB = 1 << 20


def measured(body: bytes, most: int = MOST) -> int:
    return asyncio.run(decoded_bytes(body, most, TimeSlices()))


def values(body: bytes) -> int:
    """How many are counted: the smallest number that is not too small."""
    low, high = 0, len(body) + 1
    while low < high:
        middle = (low + high) // 2
        try:
            measured(body, middle)
        except InvalidRequest:
            low = middle + 1
        else:
            high = middle
    return low


@pytest.mark.parametrize(
    "body",
    [
        b'{"passages":[' + b"{}," * 4 * MIB + b"{}]}",
        b'{"inputs":[{"data":[' + b"[]," * 4 * MIB + b"[]]}]}",
        b'{"unknown":[' + b"[[[]]]," * MIB + b"0]}",
        b'{"input":[' + b"0," * 4 * MIB + b"0]}",
        b'{"input":[' + b"null," * 4 * MIB + b"null]}",
        b'{"input":[' + b'"",' * 4 * MIB + b'""]}',
        b"{" + b'"a":1,' * 2 * MIB + b'"a":1}',
        b'{"shape":[' + b"1e9," * 2 * MIB + b"1]}",
        b"[" * 8 * MIB,
        b'{"a":' * 2 * MIB,
        b'["\\"' + b'",\\"' * 2 * MIB,
    ],
    ids=lambda body: body[:24].decode(),
)
def test_many_values_are_refused_as_soon_as_they_are_counted(body: bytes) -> None:
    """By a count, in memory for a slice of the body, whatever the values are."""
    tracemalloc.start()
    with pytest.raises(InvalidRequest, match=f"more than {MOST} values, wanted"):
        measured(body)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 8 * MIB


TEXTS = {
    "prose": "the one, and: {the [other]}, ",
    "quotations": 'she said "a, b" and {c}, ',
    "backslashes": '\\, \\\\, \\\\\\",',
    "line ends": "\n,\r,\t,",
    "other scripts": "道，路, [二] ",
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
@pytest.mark.parametrize("ascii_only", [True, False])
def test_what_stands_in_texts_is_no_value(text: str, *, ascii_only: bool) -> None:
    """Texts of millions of commas are legitimate, however they are escaped."""
    body = json.dumps({"passages": [text * 40_000] * 8}, ensure_ascii=ascii_only).encode()
    measured(body, most=20)


def test_the_count_is_exact_wherever_slices_end(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen = random.Random(14)
    for _ in range(60):
        value = made_up(chosen, 4)
        body = json.dumps(value, ensure_ascii=chosen.random() < 0.5).encode()
        found = set()
        for size in (1, 2, 3, 7, 64, len(body)):
            monkeypatch.setattr(json_size, "SLICE_BYTES", size)
            found.add(values(body))
        assert found == {1 + body_separators(value)}


def made_up(chosen: random.Random, depth: int) -> Any:
    kind = chosen.randrange(6 if depth else 4)
    text = "".join(chosen.choices('a",:[{\\\n é道😀', k=chosen.randrange(9)))
    if kind == 4:
        return [made_up(chosen, depth - 1) for _ in range(chosen.randrange(5))]
    if kind == 5:
        return {f"{i}{text}": made_up(chosen, depth - 1) for i in range(chosen.randrange(5))}
    return (text, 1.5, None, text)[kind]


def body_separators(value: Any) -> int:
    """One before every key, every value but the outermost, and the end of what is empty."""
    if isinstance(value, list):
        return max(1, len(value)) + sum(map(body_separators, value))
    if isinstance(value, dict):
        return max(1, 2 * len(value)) + sum(map(body_separators, value.values()))
    return 0


@pytest.mark.parametrize(
    "item",
    [
        *("{}", "[]", "[1]", '{"a":1}', '"ab"', "1.5", "999", '{"text":"ab"}', "[[[[]]]]", "null"),
        *('"é道"', '"😀 and so on"', r'"\u9053\u8def"', r'"\ud83d\ude00 and so on"', r'"\n\n\n"'),
    ],
)
def test_no_decoder_makes_more_than_was_counted(item: str) -> None:
    body = f"[{','.join([item] * 20_000)}]".encode()
    bound = measured(body)
    for kind in (Any, list[Any]):
        decoder = msgspec.json.Decoder(kind)
        tracemalloc.start()
        decoded = decoder.decode(body)
        now, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert now <= bound
        del decoded


@pytest.mark.parametrize(("text", "size"), [("a", 1), ("é", 1), ("道", 2), ("😀", 4)])
def test_the_bound_on_a_long_text_is_near_its_size(text: str, size: int) -> None:
    """In UTF-8; in escapes it may be twice as much."""
    body = json.dumps(text * 100_000, ensure_ascii=False).encode()
    escaped = json.dumps(text * 100_000).encode()
    assert size * 100_000 <= measured(body) < size * 101_000
    assert size * 100_000 <= measured(escaped) < 2 * size * 101_000


def test_other_work_goes_on_between_slices() -> None:
    body = b'["' + b"x" * 8 * MIB + b'"]'

    async def slices() -> int:
        task = asyncio.ensure_future(decoded_bytes(body, MOST, TimeSlices()))
        count = 0
        while not task.done():
            await asyncio.sleep(0)
            count += 1
        return count

    assert asyncio.run(slices()) >= 8 * MIB // (1 << 18)


def test_every_route_that_reads_json_counts_first(serve: Serve) -> None:
    """Each refuses with the words of its own surface."""
    server = serve({"ENABLE_MOCK_INFERENCE": "1", "RERANK_MODEL_CONTROL": "true"})
    settings = server.settings
    most = most_values(max(settings.max_passages, settings.embed_max_inputs))
    body = b'{"ignored":[' + b"0," * most + b"0]}"
    reading = [operation for operation in OPERATIONS if operation.request]
    assert len(reading) > 10
    for operation in reading:
        error_format = operation.error_formats[0]
        path = operation.path.format(**operation.parameters)
        found = server.http.post(path, content=body)
        assert f"more than {most} values" in found.text, path
        refused = Failure(400, "", "too_long", kind=InvalidRequest)
        assert found.status_code == error_format(refused).status
        assert found.json().keys() == json.loads(error_format(refused).body).keys()
