"""Tokenising the texts of an embedder, and listing tokens, with real tokenizers made here."""

import itertools

import pytest
import tokenizers

from runtime.engines.mock import byte_tokenizer
from runtime.errors import (
    BlankInput,
    DeadlineExceeded,
    ForbiddenText,
    InputTooLong,
    InputTypeRequired,
    NoInputs,
    TextPlace,
)
from runtime.requests import EmbedRequest
from runtime.text import (
    TextEncoder,
    unchecked,
)
from runtime.tokens import Token, tokens_of
from tests.runtime.encoders import passed, text_encoder, text_of, with_bos


@pytest.mark.parametrize(
    ("input_type", "expected"),
    [("query", "query:  two blanks "), ("passage", "passage:  two blanks ")],
)
def test_a_prefix_ends_in_one_space_and_the_text_keeps_its_own(
    input_type: str, expected: str
) -> None:
    row = text_encoder(100).encode(EmbedRequest([" two blanks "], input_type)).rows[0]  # type: ignore[arg-type]
    assert text_of(row.token_ids) == expected
    assert row.type_ids is None


@pytest.mark.parametrize("input_type", ["query", "passage", None])
def test_a_symmetric_model_puts_nothing_before_a_text(input_type: str | None) -> None:
    row = text_encoder(100, {}).encode(EmbedRequest(["because"], input_type)).rows[0]  # type: ignore[arg-type]
    assert text_of(row.token_ids) == "because"


def test_an_asymmetric_model_wants_to_know_the_type() -> None:
    with pytest.raises(InputTypeRequired) as caught:
        text_encoder(100).encode(EmbedRequest(["because"], None))
    assert str(caught.value) == "'input_type' parameter is required for asymmetric models"


@pytest.mark.parametrize(
    ("truncate", "max_tokens", "expected"),
    [
        ("END", 10, "query: bec"),
        ("START", 10, "query: use"),
        ("END", 4, "quer"),
        ("START", 4, "ry: "),
    ],
)
def test_the_text_gives_way_before_its_prefix(
    truncate: str, max_tokens: int, expected: str
) -> None:
    found = text_encoder(max_tokens).encode(
        EmbedRequest(["because", "b"], "query", truncate=truncate)
    )  # type: ignore[arg-type]
    assert text_of(found.rows[0].token_ids) == expected
    assert found.truncated == (1 if max_tokens == 10 else 2)


def test_a_text_without_prefix_is_cut_after_its_bos() -> None:
    tokenizer = byte_tokenizer()
    bos = with_bos(tokenizer)
    row = (
        TextEncoder(tokenizer, {}, 4)
        .encode(EmbedRequest(["because"], None, truncate="START"))
        .rows[0]
    )
    assert row.token_ids[0] == bos
    assert text_of(row.token_ids[1:]) == "use"


def test_a_texts_length_counts_its_prefix() -> None:
    assert len(text_encoder(14).encode(EmbedRequest(["because"], "query")).rows[0]) == 14
    with pytest.raises(InputTooLong) as caught:
        text_encoder(13).encode(EmbedRequest(["ok", "because"], "query"))
    assert str(caught.value) == "Input length 14 exceeds maximum allowed token size 13"


@pytest.mark.parametrize("truncate", ["END", "START"])
def test_a_vast_input_is_cut_as_a_whole_one_would_be(truncate: str) -> None:
    vast = "".join(f"word{i} " for i in range(20_000))
    row = text_encoder(60).encode(EmbedRequest([vast], "passage", truncate=truncate)).rows[0]  # type: ignore[arg-type]
    kept = vast[: 60 - len("passage: ")] if truncate == "END" else vast[-60 + len("passage: ") :]
    assert text_of(row.token_ids) == f"passage: {kept}"


def test_a_vast_inputs_true_length_is_reported() -> None:
    vast = "word " * 30_000
    with pytest.raises(InputTooLong, match=f"Input length {len(vast) + 7} exceeds"):
        text_encoder(60).encode(EmbedRequest(["short", vast], "query"))


@pytest.mark.parametrize(
    ("texts", "error", "where"),
    [
        (["a", "b", "c", ""], BlankInput, "input[3]"),
        ([" \n\u2003"], BlankInput, "input[0]"),
        (["a", "q\ud800"], ForbiddenText, "input[1]"),
        (["\udfff"], ForbiddenText, "input[0]"),
    ],
)
def test_inputs_that_cannot_be_embedded_are_named(
    texts: list[str], error: type[BlankInput | ForbiddenText], where: str
) -> None:
    with pytest.raises(error) as caught:
        text_encoder(100).encode(EmbedRequest(texts, "query"))
    assert str(TextPlace(caught.value.field, caught.value.index)) == where


def test_no_inputs() -> None:
    with pytest.raises(NoInputs, match="found 0 inputs"):
        text_encoder(100).encode(EmbedRequest([], "query"))


def test_a_deadline_ends_the_encoding_of_texts() -> None:
    with pytest.raises(DeadlineExceeded):
        text_encoder(60).encode(EmbedRequest(["because"], "query"), passed)


def tokens(
    tokenizer: tokenizers.Tokenizer, *texts: str, most: int = 100, special: bool
) -> list[list[Token]]:
    found = tokens_of(tokenizer, texts, most, add_special_tokens=special, check=unchecked)
    return [list(one) for one in found]


def test_tokens_say_where_they_stand_and_which_were_added(
    pair_tokenizer: tokenizers.Tokenizer,
) -> None:
    text = "a ü b"
    (found,) = tokens(pair_tokenizer, text, special=True)
    assert [(t.id, t.text, t.special) for t in found] == [
        (0, "[CLS]", True),
        (3, "a", False),
        (2, "[UNK]", False),
        (4, "b", False),
        (1, "[SEP]", True),
    ]
    assert [text[t.start : t.stop] for t in found if not t.special] == ["a", "ü", "b"]
    (alone,) = tokens(pair_tokenizer, text, special=False)
    assert alone == [token for token in found if not token.special]


@pytest.mark.parametrize(("text", "error"), [(" ", BlankInput), ("a\ud800", ForbiddenText)])
def test_a_text_that_has_no_tokens_is_refused(text: str, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"inputs\[1\]"):
        tokens(byte_tokenizer(), "a", text, special=True)


def test_no_more_tokens_are_listed_than_all_texts_may_have() -> None:
    assert len(tokens(byte_tokenizer(), "a" * 5, "b" * 5, most=10, special=True)) == 2
    with pytest.raises(InputTooLong, match="Input length 11 exceeds"):
        tokens(byte_tokenizer(), "a" * 5, "b" * 6, most=10, special=True)


def test_a_vast_text_is_counted_before_it_is_tokenised_as_a_whole() -> None:
    vast = "word " * 30_000
    seen: list[int] = []

    class Watched:
        def encode_batch(self, texts: list[str], **options: bool) -> list[tokenizers.Encoding]:
            seen.extend(map(len, texts))
            return byte_tokenizer().encode_batch(texts, **options)

    with pytest.raises(InputTooLong, match="Input length 150000 exceeds"):
        tokens(Watched(), vast, most=149_999, special=True)  # type: ignore[arg-type]
    assert max(seen) <= 1 << 16
    (found,) = tokens(byte_tokenizer(), vast, most=150_000, special=True)
    assert len(found) == 150_000


def test_listing_ends_when_nobody_wants_it() -> None:
    looks = itertools.count()

    def check() -> None:
        if next(looks) == 2:
            raise DeadlineExceeded

    found = tokens_of(byte_tokenizer(), ["a"] * 9, 100, add_special_tokens=True, check=check)
    with pytest.raises(DeadlineExceeded):
        list(found)
    assert next(looks) == 3
