"""The tokens of plain texts, without template or prefix."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import tokenizers

from runtime.errors import InputTooLong, TokenizerFailed
from runtime.text_checks import check_text

# Enough to tokenise at once, few enough that their tokens take little memory.
_PIECE_CHARS = 1 << 16
_PANIC = "PanicException"


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
    blanks: bool = False,
) -> Iterator[Iterator[Token]]:
    """The tokens of each text alone, without template or prefix, one text after the other; those of
    one are to be taken before the next.

    Raises InputTooLong for more than `most` tokens of all texts, and InputRejected, which names a
    text as in inputs[3], and what `check` raises, which is called before each. With `blanks`, texts
    may be blank.
    """
    count = 0
    for index, text in enumerate(texts):
        check()
        check_text(f"inputs[{index}]", text, blanks=blanks)
        if len(text) > _PIECE_CHARS:  # tokenised as a whole it may take much memory
            parts = (encoded(tokenizer, piece, add_special_tokens=False) for piece in pieces(text))
            about = count + sum(map(len, parts))
            if about > most:
                raise InputTooLong(about, most)
        found = encoded(tokenizer, text, add_special_tokens=add_special_tokens)
        count += len(found)
        if count > most:
            raise InputTooLong(count, most)
        facts = zip(found.ids, found.tokens, found.special_tokens_mask, found.offsets, strict=True)
        yield (Token(i, token, bool(special), *span) for i, token, special, span in facts)


def pieces(text: str) -> Iterator[str]:
    """`text` in pieces of about 65,000 characters, each but the first with a leading blank where
    the text has one in reach: tokenizers cut there too."""
    start = 0
    while start < len(text):
        end = start + _PIECE_CHARS
        blank = text.rfind(" ", start + 1, end) if end < len(text) else -1
        end = blank if blank > 0 else end
        yield text[start:end]
        start = end


def encoded(
    tokenizer: tokenizers.Tokenizer, text: str, *, add_special_tokens: bool
) -> tokenizers.Encoding:
    """`text` tokenised; in the form for several, because that leaves Python to other threads.

    Raises TokenizerFailed.
    """
    with translate_panics():
        (found,) = tokenizer.encode_batch([text], add_special_tokens=add_special_tokens)
    return found


@contextmanager
def translate_panics() -> Iterator[None]:
    """Raise TokenizerFailed where the library panics: its panics are no Exceptions, and would end
    a thread without a word to the caller."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != _PANIC:  # a class that no module has
            raise
        raise TokenizerFailed from error
