"""Cutting a text to its first or last tokens without tokenising all of a long text."""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

import tokenizers

from runtime.tokens import translate_panics

T = TypeVar("T")

# Characters tokenised at a time: enough to use every core, few enough to bound memory and to notice
# a deadline.
CHUNK_CHARS = 1 << 20
# How much of a text is tokenised first: enough for most texts, as tokens of real text have about
# four characters. Each further attempt takes four times as much, up to the maximum.
_TRIED_CHARS_PER_TOKEN = 8
_LEAST_TRIED_CHARS = 1 << 10
_MOST_TRIED_CHARS = 1 << 20
_WIDER = 4
# Tokens this close to the cut may differ from those of the whole text.
_EDGE_CHARS = 1 << 9
_WORD_END = re.compile(r"\S\s")


def part(
    tokenizer: tokenizers.Tokenizer,
    texts: Sequence[str],
    count: int,
    check: Callable[[], object],
    *,
    last: bool = False,
) -> list[str]:
    """Cut each text to its first (or `last`) `count` tokens, special tokens not counted. Shorter
    texts are returned whole.

    The tokens are those of the whole text. Exception: a text without `count` tokens in 2^20
    characters (or in 8 · `count`, if that is more) is cut to that many characters. `check` is
    called on the way to cancel the work.
    """
    found = list(texts)
    most = max(_MOST_TRIED_CHARS, count * _TRIED_CHARS_PER_TOKEN)
    wide = max(_LEAST_TRIED_CHARS, count * _TRIED_CHARS_PER_TOKEN)
    left: Sequence[int] = range(len(texts))
    while left:
        thin = []
        for some in chunks(left, [min(wide, len(texts[index])) for index in left]):
            check()
            tried = [texts[index][-wide:] if last else texts[index][:wide] for index in some]
            with translate_panics():
                encodings = tokenizer.encode_batch(tried, add_special_tokens=False)
            for index, text, encoding in zip(some, tried, encodings, strict=True):
                at = _place(encoding, count, last=last)
                final = wide >= most or len(text) == len(texts[index])
                if not (final or _certain(text, at, last=last)):
                    thin.append(index)
                elif at is None:
                    found[index] = text
                else:
                    found[index] = text[at:] if last else text[:at]
        left, wide = thin, min(most, wide * _WIDER)
    return found


def chunks(items: Sequence[T], sizes: Iterable[int]) -> Iterator[Sequence[T]]:
    """Split the items into consecutive chunks of about CHUNK_CHARS characters, by their sizes."""
    start = total = 0
    for index, size in enumerate(sizes):
        if index > start and total + size > CHUNK_CHARS:
            yield items[start:index]
            start, total = index, 0
        total += size
    yield items[start:]


def _place(encoding: tokenizers.Encoding, count: int, *, last: bool) -> int | None:
    """The offset where the first `count` tokens end, or the last ones begin; None if there are no
    more tokens."""
    if len(encoding) <= count:
        return None
    # Making the list of all offsets takes long.
    span = encoding.token_to_chars(len(encoding) - count if last else count - 1)
    return None if span is None else span[0 if last else 1]


def _certain(text: str, at: int | None, *, last: bool) -> bool:
    """Whether the tokens before `at` (with `last`: after it) equal those of the whole text, from
    which `text` was cut. Tokenizers merge from left to right, and not across words."""
    if at is None:
        return False
    if last:
        return at >= _EDGE_CHARS and _WORD_END.search(text, 0, at) is not None
    return at <= len(text) - _EDGE_CHARS
