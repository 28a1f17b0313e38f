"""The texts: made from the exporter's proof sentences, with exact token counts."""

import math
import random
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from exporter.parity_texts import parity_groups
from runtime.requests import RankRequest
from runtime.text import Encoding, PairEncoder, load_tokenizer

QUERY = "How do vaccines protect against infection?"
SHORTEST, LONGEST = 30, 512
_SEED = 1
# Groups of special characters would make a text's tokens depend on its neighbours.
_GROUPS = ("uneven", "near lengths", "special tokens", "template text")
_SPECIAL = ("[", "<", "{", "%")
# One token each in most vocabularies, whatever precedes it.
_FILLERS = (" the", " a", " of", ".", ",")


@dataclass(frozen=True)
class Texts:
    """Passages for QUERY and the tokens of each pair, template and special tokens included."""

    passages: list[str]
    token_counts: list[int]

    @property
    def tokens(self) -> int:
        """Real tokens of all pairs."""
        return sum(self.token_counts)


class TextMaker:
    """Makes passages whose pairs with QUERY have a wanted number of tokens."""

    def __init__(self, tokenizer_file: Path, template: str | None, max_tokens: int) -> None:
        self._encoder = PairEncoder(load_tokenizer(tokenizer_file), template, 10 * max_tokens)

    def make(self, lengths: Sequence[int]) -> Texts:
        """One passage per length, all different; the same lengths give the same texts.

        Raises ValueError for a length that no passage has, such as one below the query's own.
        """
        rng = random.Random(_SEED)
        passages = [self._passage(length, rng) for length in lengths]
        return Texts(passages, self.count(passages))

    def encode(self, passages: Sequence[str]) -> Sequence[Encoding]:
        """The tokens of each pair."""
        return self._encoder.encode(RankRequest(QUERY, passages)).rows

    def count(self, passages: Sequence[str]) -> list[int]:
        """How many they are."""
        return [len(row) for row in self.encode(passages)]

    def _passage(self, tokens: int, rng: random.Random) -> str:
        words = _words(tokens, rng)
        counts = range(2, len(words) + 1)
        fit = bisect_right(counts, tokens, key=lambda n: self._tokens(" ".join(words[:n])))
        text = " ".join(words[: fit + 1])  # the most words that fit, at least one
        while (found := self._tokens(text)) < tokens:
            more = (text + filler for filler in _FILLERS)
            longer = next((one for one in more if self._tokens(one) == found + 1), None)
            if longer is None:
                raise ValueError(f"no filler adds one token to a pair of {found}")
            text = longer
        if found != tokens:
            raise ValueError(f"found {found} tokens in the shortest pair, wanted {tokens}")
        return text

    def _tokens(self, passage: str) -> int:
        return self.count([passage])[0]


def mixed_lengths(count: int, longest: int = LONGEST, shortest: int = SHORTEST) -> list[int]:
    """`count` lengths between `shortest` and `longest`, evenly on a logarithmic scale, shuffled:
    many short passages and few long ones, as in retrieval results."""
    last = max(1, count - 1)
    step = math.log(longest / shortest) / last
    lengths = [round(shortest * math.exp(step * i)) for i in range(count)]
    random.Random(_SEED).shuffle(lengths)
    return lengths


def _words(count: int, rng: random.Random) -> list[str]:
    """At least `count` words of whole passages in random order."""
    passages = [
        passage
        for group in parity_groups(1)
        if group.name in _GROUPS
        for passage in group.passages
        if not any(mark in passage for mark in _SPECIAL)
    ]
    words: list[str] = []
    while len(words) < count:
        words += rng.choice(passages).split()
    return words
