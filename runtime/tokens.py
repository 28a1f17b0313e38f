"""Tokens of plain texts, without template or prefix."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import tokenizers

from runtime.errors import InputTooLong, TextPlace, TokenizerFailed
from runtime.text_checks import check_text

# Characters of a piece: enough for fast tokenising, few enough that the tokens take little memory.
_PIECE_CHARS = 1 << 16
_PANIC = "PanicException"


class Token(NamedTuple):
    """One token of a text. It is `special` if the tokenizer added it, else it covers characters
    `start` to `stop`."""

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
    """Yield the tokens of each text alone, without template or prefix. Consume one text's tokens
    before the next.

    `check` is called before each text to cancel the work. With `blanks`, texts may be blank. Raises
    InputTooLong for more than `most` tokens in all texts, and InputRejected, which names a text as
    in inputs[3].
    """
    count = 0
    for index, text in enumerate(texts):
        check()
        check_text(TextPlace("inputs", index), text, blanks=blanks)
        if len(text) > _PIECE_CHARS:  # estimate first: the whole text may take much memory
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
    """Split `text` into pieces of about 65,000 characters, before a blank if there is one, because
    tokenizers split there too."""
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
    """Tokenise `text`, by the batch function because it releases the GIL.

    Raises TokenizerFailed.
    """
    with translate_panics():
        (found,) = tokenizer.encode_batch([text], add_special_tokens=add_special_tokens)
    return found


@contextmanager
def translate_panics() -> Iterator[None]:
    """Translate panics of the library to TokenizerFailed. A panic is not an Exception, and would
    end a thread without an answer to the caller."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != _PANIC:  # the class cannot be imported
            raise
        raise TokenizerFailed from error
