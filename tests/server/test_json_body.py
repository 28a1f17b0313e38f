"""What no decoder can read is InvalidRequest, whatever it is."""

from typing import Any

import msgspec
import pytest

from server.errors import InvalidRequest
from server.json_body import decode


class _Request(msgspec.Struct):
    data: Any = None
    shape: list[int] = []


DECODER = msgspec.json.Decoder(_Request)


@pytest.mark.parametrize(
    "body",
    [
        b'{"data":' + b"[" * 1_000_000,
        b'{"unknown":' + b"[" * 1_000_000,
        b'{"unknown":' + b'{"a":' * 1_000_000,
        b'{"data":' + b"1" * 1_000_000 + b"}",
        b'{"shape":[' + b"1" * 5_000 + b"]}",
        b'{"data":1e' + b"9" * 1_000_000 + b"}",
        b'{"data":"\\ud800"}',
        b'{"data":"\xff"}',
        b'{"data":"' + b"\\" * 1_000_001,
        b"",
    ],
    ids=lambda body: body[:20].decode("latin-1"),
)
def test_what_cannot_be_read_is_not_valid(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        decode(DECODER, body)


def test_a_text_full_of_quotation_marks_is_one_text() -> None:
    found = decode(msgspec.json.Decoder(list[str]), b'["' + b'\\"' * 1_200_000 + b'"]')
    assert found == ['"' * 1_200_000]


HALF = "half of a surrogate pair"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (r"\ud83d", HALF),
        (r"\ud83d and more", HALF),
        (r"\uD83D\ud83d", HALF),
        (r"\ud83d\u0041", HALF),
        (r"\ude00", HALF),
        (r"\ud83d\ude00\ud83d", HALF),
        (r"\\\ud83d", HALF),
        (r"\u12", "escape"),
        (r"\ud83d\ude00\q", "escape"),
    ],
)
@pytest.mark.parametrize("field", ["data", "unknown"])
def test_half_of_a_surrogate_pair_is_called_so(field: str, text: str, why: str) -> None:
    with pytest.raises(InvalidRequest) as message:
        decode(DECODER, f'{{"{field}":"{text}"}}'.encode())
    assert why in str(message.value)
    assert (why == HALF) == (HALF in str(message.value))


@pytest.mark.parametrize("body", [rb'{"data":"\\ud83d', rb'{"data":"\ud83d\ude00', b'{"data":"a'])
def test_a_body_that_ends_too_soon_is_called_so(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="truncated"):
        decode(DECODER, body)
