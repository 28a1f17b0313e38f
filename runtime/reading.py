"""Texts that are tokenised in parts and are one row."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import tokenizers

from runtime.postprocess import Ints
from runtime.template import Template
from runtime.tokens import encoded, translate_panics


@dataclass(frozen=True)
class Reading:
    """A tokenised pair: `token_ids`, `type_ids` and `offsets` int64 [n], [n] and [n, 2]; the
    `added` ones, bool [n], are the tokenizer's own. `owners` int64 [n] are the numbers of the
    texts, 0 or 1, that tokens belong to, and -1 for added ones."""

    token_ids: Ints
    type_ids: Ints
    offsets: Ints
    special: npt.NDArray[np.bool_]
    owners: Ints

    @classmethod
    def of(cls, encoding: tokenizers.Encoding, offsets: Ints | None = None) -> "Reading":
        """That of the library's `encoding`; `offsets` [m, 2] are those of its tokens that are not
        added."""
        owners = [-1 if owner is None else owner for owner in encoding.sequence_ids]
        found = cls(
            np.asarray(encoding.ids, np.int64),
            np.asarray(encoding.type_ids, np.int64),
            np.asarray(encoding.offsets, np.int64).reshape(-1, 2),
            np.asarray(encoding.special_tokens_mask, bool),
            np.asarray(owners, np.int64),
        )
        if offsets is not None:
            found.offsets[found.owners >= 0] = offsets
        return found


def read_parts(
    tokenizer: tokenizers.Tokenizer, parts: Sequence[tuple[str, tokenizers.Tokenizer]]
) -> Reading:
    """One row of the `parts`, each read by its own tokenizer, and what `tokenizer` adds to a
    text."""
    found, spans, start = [], [], 0
    for text, reader in parts:
        encoding = encoded(reader, text, add_special_tokens=False)
        found.append(encoding)
        spans.append(np.asarray(encoding.offsets, np.int64).reshape(-1, 2) + start)
        start += len(text)
    with translate_panics():
        whole = tokenizer.post_process(tokenizers.Encoding.merge(found))
    return Reading.of(whole, np.concatenate(spans))


def read_pairs(
    tokenizer: tokenizers.Tokenizer, template: Template | None, pairs: Sequence[tuple[str, str]]
) -> list[tokenizers.Encoding]:
    """Each pair in the template, or as the tokenizer joins it without one; no offsets."""
    if template is not None and template.tokenize_apart:
        return _read_apart(tokenizer, [template.parts(*pair) for pair in pairs])
    joined = pairs if template is None else [template.join(*pair) for pair in pairs]
    with translate_panics():
        return tokenizer.encode_batch_fast(list(joined))


def read_offsets(
    tokenizer: tokenizers.Tokenizer, template: Template | None, pairs: Sequence[tuple[str, str]]
) -> list[Reading]:
    """The same with offsets in the joined text, which takes longer."""
    if template is not None and template.tokenize_apart:
        rows = (template.parts(*pair) for pair in pairs)
        return [read_parts(tokenizer, [(part, tokenizer) for part in row]) for row in rows]
    joined = pairs if template is None else [template.join(*pair) for pair in pairs]
    with translate_panics():
        return [Reading.of(encoding) for encoding in tokenizer.encode_batch(list(joined))]


def _read_apart(
    tokenizer: tokenizers.Tokenizer, rows: Sequence[Sequence[str]]
) -> list[tokenizers.Encoding]:
    """The rows of these parts; a part of several rows is read once."""
    texts = list(dict.fromkeys(itertools.chain(*rows)))
    with translate_panics():
        read = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        found = dict(zip(texts, read, strict=True))
        merged = (tokenizers.Encoding.merge([found[part] for part in row]) for row in rows)
        return [tokenizer.post_process(one) for one in merged]
