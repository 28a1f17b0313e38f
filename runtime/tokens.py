"""The tokens of plain texts, without template or prefix."""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import tokenizers

from runtime.errors import InputTooLong
from runtime.text_checks import check_text


class Token(NamedTuple):
    """One token of a text: `special` when the tokenizer added it, else characters `start` to
    `stop` of the text."""

    id: int
    text: str
    special: bool
    start: int
    stop: int


def tokens_of(
    tokenizer: tokenizers.Tokenizer,
    texts: Sequence[str],
    most: int,
    *,
    add_special_tokens: bool,
    check: Callable[[], object],
) -> Iterator[list[Token]]:
    """The tokens of each text alone, without template or prefix, one text after the other.

    Raises InputTooLong for more than `most` tokens of all texts, and InputRejected, which names a
    text as in inputs[3], and what `check` raises, which is called before each.
    """
    count = 0
    for index, text in enumerate(texts):
        check()
        check_text(f"inputs[{index}]", text)
        found = encoded(tokenizer, text, add_special_tokens=add_special_tokens)
        count += len(found)
        if count > most:
            raise InputTooLong(count, most)
        parts = zip(found.ids, found.tokens, found.special_tokens_mask, found.offsets, strict=True)
        yield [Token(i, token, bool(special), *span) for i, token, special, span in parts]


def first_tokens(tokenizer: tokenizers.Tokenizer, text: str, count: int) -> str:
    """`text` up to the end of its first `count` tokens."""
    found = encoded(tokenizer, text, add_special_tokens=False)
    if len(found) <= count:
        return text
    span = found.token_to_chars(count - 1)  # the list of all offsets takes long to make
    return text if span is None else text[: span[1]]


def encoded(
    tokenizer: tokenizers.Tokenizer, text: str, *, add_special_tokens: bool
) -> tokenizers.Encoding:
    """`text` tokenised; in the form for several, because that leaves Python to other threads."""
    (found,) = tokenizer.encode_batch([text], add_special_tokens=add_special_tokens)
    return found
