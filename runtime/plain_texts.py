"""Reading a stranger's texts so that no part of them becomes a special token.

A tokenizer takes what looks like one of its special tokens for it, wherever it stands: a passage
with the end of a chat's turn in it can answer in the model's place. Here only the template's own
special tokens are read as such, and the texts around them by a tokenizer that has none. Special
tokens end the text before them in most tokenizers, so everything else is read as it always is; the
others are refused.
"""

import itertools
import re
import secrets
from collections.abc import Iterator, Sequence
from copy import copy
from typing import Any, Self

import tokenizers

from runtime.errors import ArtifactError
from runtime.reading import Reading, read_pairs, read_parts
from runtime.template import Template
from runtime.tokens import encoded, translate_panics

# Ordinary texts whose ends could meet the prompt's tokens in another way when they are read apart.
_QUERIES = ("why?", " Why not \n")
_PASSAGES = ("An ordinary text.", "", " ", "\n two lines\n", "\u5317\u4eac a\u0301", "\u0301b 7")


class PlainTexts:
    """Reads pairs of texts without special tokens in them, joined by a template, or by the
    tokenizer without one; safe to use from several threads."""

    def __init__(self, tokenizer: tokenizers.Tokenizer, template: Template | None) -> None:
        """Raises ArtifactError for a tokenizer that takes a special token for a word of its
        vocabulary, or reads ordinary texts otherwise when the prompt's tokens are apart."""
        import msgspec  # late: benchmarks/gpu runs where it is not installed

        settings = msgspec.json.decode(tokenizer.to_str())
        names = [token["content"] for token in settings["added_tokens"]]
        self._tokenizer, self._template = tokenizer, template
        self.bare = tokenizers.Tokenizer.from_str(msgspec.json.encode(_bare(settings)).decode())
        longest_first = sorted(names, key=len, reverse=True)
        self._special = re.compile(f"({'|'.join(map(re.escape, longest_first))})")
        self._named = bool(names)
        # What no word covers is unknown in any text.
        for name in {*names} - {_unknown(settings["model"])}:
            if (
                tokenizer.token_to_id(name)
                in encoded(self.bare, name, add_special_tokens=False).ids
            ):
                raise _refused(
                    f"reads {name!r} as a special token in any text, as its vocabulary has it as a "
                    "word"
                )
        self._compare()

    def _compare(self) -> None:
        """Raise ArtifactError if an ordinary text is not read as it is without the setting."""
        pairs = list(itertools.product(_QUERIES, _PASSAGES))
        usual = read_pairs(self._tokenizer, self._template, pairs)
        for pair, found, wanted in zip(pairs, self.read(pairs), usual, strict=True):
            if found.token_ids.tolist() != wanted.ids:
                raise _refused(
                    f"reads the texts {pair} otherwise when special tokens do not touch them "
                    "(lstrip, rstrip, single_word or normalized tokens, or a beginning of its own)"
                )

    def read(self, pairs: Sequence[tuple[str, str]]) -> list[Reading]:
        """The tokens of each pair."""
        template = self._template
        if template is None:
            return [self._read_pair(query, passage) for query, passage in pairs]
        return [read_parts(self._tokenizer, [*self._parts(template, *pair)]) for pair in pairs]

    def telling(self, template: Template | None) -> Self:
        """The same for a template with another instruction."""
        own = copy(self)
        own._template = template
        return own

    def _read_pair(self, query: str, passage: str) -> Reading:
        first, second = (
            encoded(self.bare, text, add_special_tokens=False) for text in (query, passage)
        )
        with translate_panics():
            return Reading.of(self._tokenizer.post_process(first, second))

    def _parts(
        self, template: Template, query: str, passage: str
    ) -> Iterator[tuple[str, tokenizers.Tokenizer]]:
        """Texts between the template's special tokens, and these, in order, each with its
        reader."""
        for pieces in template.pieces(query, passage):
            text = ""
            for piece, ours in pieces:
                # Every other one is a special token.
                split = self._special.split(piece) if ours and self._named else [piece]
                for number, one in enumerate(split):
                    if number % 2:
                        if text:
                            yield text, self.bare
                        yield one, self._tokenizer
                        text = ""
                    else:
                        text += one
            if text:
                yield text, self.bare


def _bare(settings: dict[str, Any]) -> dict[str, Any]:
    """The `settings` of a tokenizer without its added tokens.

    A Unigram model has them among its words, where the best one is found in any text. There they
    get names that no text contains, as the numbers of the others must stay.
    """
    found = settings | {"added_tokens": [], "post_processor": None}
    model, names = settings["model"], {token["content"] for token in settings["added_tokens"]}
    if model["type"] == "Unigram":
        words = [
            [secrets.token_hex() if word in names else word, score]
            for word, score in model["vocab"]
        ]
        found["model"] = model | {"vocab": words}
    return found


def _unknown(model: dict[str, Any]) -> str | None:
    """The name of a model's unknown token, if it has one."""
    if model["type"] != "Unigram":
        return model.get("unk_token")
    return None if model["unk_id"] is None else model["vocab"][model["unk_id"]][0]


def _refused(why: str) -> ArtifactError:
    return ArtifactError(
        f"found RERANK_PLAIN_SPECIAL_TOKENS, but this tokenizer {why}; leave the setting out"
    )
