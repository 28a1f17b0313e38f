"""A body is refused for what decoding it would cost before it is decoded."""

import msgspec
import pytest

from server.errors import NotValid
from server.json_body import decode

DECODER = msgspec.json.Decoder(list[str])


def test_a_million_texts_are_not_decoded() -> None:
    with pytest.raises(NotValid, match="more than 500000 texts"):
        decode(DECODER, b"[" + b'"",' * 500_001 + b'""]')


def test_a_text_full_of_quotation_marks_is_one_text() -> None:
    (text,) = decode(DECODER, b'["' + b'\\"' * 1_200_000 + b'"]')
    assert text == '"' * 1_200_000
