"""Reading a stranger's texts so that no part of them becomes a special token.

A tokenizer takes what looks like one of its special tokens for it, wherever it stands: a passage
with the end of a chat's turn in it can answer in the model's place. Here only the template's own
special tokens are read as such, and the texts around them by a tokenizer that has none. Special
tokens end the text before them in any case, so everything else is read as it always is.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import tokenizers

from runtime.errors import ArtifactError
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


class PlainTexts:
    """Reads pairs of texts without special tokens in them; safe to use from several threads."""

    def __init__(self, tokenizer: tokenizers.Tokenizer) -> None:
        """Raises ArtifactError for a tokenizer whose words are the special tokens as well."""
        import msgspec  # late: benchmarks/gpu runs where it is not installed

        settings = msgspec.json.decode(tokenizer.to_str())
        names = [token["content"] for token in settings["added_tokens"]]
        bare = settings | {"added_tokens": [], "post_processor": None}
        self._tokenizer = tokenizer
        self.bare = tokenizers.Tokenizer.from_str(msgspec.json.encode(bare).decode())
        for name in names:
            if (
                tokenizer.token_to_id(name)
                in encoded(self.bare, name, add_special_tokens=False).ids
            ):
                raise ArtifactError(
                    f"found RERANK_PLAIN_SPECIAL_TOKENS, but this tokenizer reads {name!r} as a "
                    "special token in any text, as its vocabulary has it as a word; leave the "
                    "setting out"
                )
        longest_first = sorted(names, key=len, reverse=True)
        self._special = re.compile(f"({'|'.join(map(re.escape, longest_first))})")
        self._named = bool(names)

    def read(self, pairs: Sequence[tuple[str, str]], template: Template | None) -> list[Reading]:
        """The pairs, joined by the `template`, or by the tokenizer without one."""
        if template is None:
            return [self._read_pair(query, passage) for query, passage in pairs]
        return [self._read_parts([*self._parts(template, *pair)]) for pair in pairs]

    def _read_pair(self, query: str, passage: str) -> Reading:
        first, second = (
            encoded(self.bare, text, add_special_tokens=False) for text in (query, passage)
        )
        with translate_panics():
            return Reading.of(self._tokenizer.post_process(first, second))

    def _read_parts(self, parts: Sequence[tuple[str, bool]]) -> Reading:
        """The text of the `parts`, of which some are special tokens."""
        found, spans, start = [], [], 0
        for text, special in parts:
            reader = self._tokenizer if special else self.bare
            encoding = encoded(reader, text, add_special_tokens=False)
            found.append(encoding)
            spans.append(np.asarray(encoding.offsets, np.int64).reshape(-1, 2) + start)
            start += len(text)
        with translate_panics():
            whole = self._tokenizer.post_process(tokenizers.Encoding.merge(found))
        return Reading.of(whole, np.concatenate(spans))

    def _parts(self, template: Template, query: str, passage: str) -> Iterator[tuple[str, bool]]:
        """Texts between the template's special tokens, and these, in order."""
        text = ""
        for piece, ours in (
            (template.before, True),
            (template.told, False),
            (template.lead, True),
            (query, False),
            (template.between, True),
            (passage, False),
            (template.after, True),
        ):
            # Every other one is a special token.
            split = self._special.split(piece) if ours and self._named else [piece]
            for number, one in enumerate(split):
                if number % 2:
                    if text:
                        yield text, False
                    yield one, True
                    text = ""
                else:
                    text += one
        if text:
            yield text, False
