"""What no decoder can read is NotValid, whatever it is."""

from typing import Any

import msgspec
import pytest

from server.errors import NotValid
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
    with pytest.raises(NotValid):
        decode(DECODER, body)


def test_a_text_full_of_quotation_marks_is_one_text() -> None:
    found = decode(msgspec.json.Decoder(list[str]), b'["' + b'\\"' * 1_200_000 + b'"]')
    assert found == ['"' * 1_200_000]
