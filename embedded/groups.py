"""Training material: a pool of passages, queries made from them, and BM25's candidates.

A query is a noisy sentence of its passage or a dictionary's headword; nothing here is labelled by
hand. Arrays: ``top`` int32 and ``top_scores`` float32, both [queries, 50], best first.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import bm25s
import numpy as np
import Stemmer
from tokenizers import Tokenizer

from embedded.texts import Passage

TOP = 50
_PREFIXES = (
    "what is",
    "what are",
    "how to",
    "how does",
    "why",
    "explain",
    "tell me about",
    "which",
    "information on",
    "what is known about",
    "how do i",
)
_SENTENCE = re.compile(r"(?<=[.!?])\s+")


@dataclass
class Material:
    """The training's data; ``own[i]`` is the pool index of query i's passage."""

    pool: list[str]
    queries: list[str]
    own: np.ndarray
    top: np.ndarray
    top_scores: np.ndarray


def choose_pool(passages: list[Passage], size: int) -> list[Passage]:
    """An even share of every source, in the given (already shuffled) order."""
    by_source: dict[str, list[Passage]] = defaultdict(list)
    for passage in passages:
        by_source[passage.source].append(passage)
    shelves = sorted(by_source.values(), key=len)
    pool: list[Passage] = []
    for index, shelf in enumerate(shelves):
        pool += shelf[: (size - len(pool)) // (len(shelves) - index)]
    return pool


def _question(words: list[str], rng: random.Random) -> str:
    text = " ".join(words)
    if rng.random() < 0.25:
        text = f"{rng.choice(_PREFIXES)} {text}"
    if rng.random() < 0.2:
        text = text.rstrip(".,;") + "?"
    return _case(text, rng)


def _case(text: str, rng: random.Random) -> str:
    draw = rng.random()
    if draw < 0.5:
        return text.lower()
    return text[:1].upper() + text[1:] if draw < 0.8 else text


def make_query(passage: Passage, rng: random.Random) -> str:
    """The headword as a question, or 40-100 % of a sentence's words (at most 20), in order."""
    if passage.headword and rng.random() < 0.5:
        return _case(
            f"{rng.choice(('what is', 'what is', 'define', ''))} {passage.headword}".strip()
            + rng.choice(("?", "")),
            rng,
        )
    sentences = [s.split() for s in _SENTENCE.split(passage.text)]
    long_enough = [s for s in sentences if len(s) >= 4] or sentences
    words = rng.choice(long_enough)
    start = rng.randrange(max(1, len(words) - 24))
    words = words[start : start + 25]
    share = rng.uniform(0.4, 1.0)
    kept = [word for word in words if rng.random() < share][:20] or words[:4]
    return _question(kept, rng)


def make_short_query(passage: Passage, rng: random.Random) -> str:
    """The headword, or one to five words of the text in their order, like typed queries."""
    if passage.headword and rng.random() < 0.6:
        words = passage.headword.split()
    else:
        words = passage.text.split()
        start = rng.randrange(max(1, len(words) - 8))
        words = words[start : start + 8]
        kept = sorted(rng.sample(range(len(words)), min(len(words), rng.randint(1, 5))))
        words = [words[index] for index in kept]
    return _question(words, rng)


def shorten(passages: list[Passage], rng: random.Random) -> list[Passage]:
    """One sentence (5 to 25 words) of every passage that has one: passages as short as queries."""
    short = []
    for passage in passages:
        sentences = [s for s in _SENTENCE.split(passage.text) if 5 <= len(s.split()) <= 25]
        if sentences:
            sentence = sentences[0] if passage.headword else rng.choice(sentences)
            short.append(Passage(passage.source, sentence, passage.headword))
    return short


def bm25_index(pool: list[str]) -> tuple[bm25s.BM25, Stemmer.Stemmer]:
    """BM25 (k1 1.5, b 0.75) with English stopwords removed and stemming."""
    stemmer = Stemmer.Stemmer("english")
    tokens = bm25s.tokenize(pool, stopwords="en", stemmer=stemmer, show_progress=False)
    index = bm25s.BM25()
    index.index(tokens, show_progress=False)
    return index, stemmer


def bm25_top(
    index: bm25s.BM25, stemmer: Stemmer.Stemmer, queries: list[str], top: int = TOP
) -> tuple[np.ndarray, np.ndarray]:
    """(pool indices int32, scores float32), each [queries, top], best first."""
    tokens = bm25s.tokenize(
        queries, stopwords="en", stemmer=stemmer, show_progress=False, return_ids=False
    )
    found, scores = index.retrieve(tokens, k=top, show_progress=False)
    return found.astype(np.int32), scores.astype(np.float32)


def make(
    passages: list[Passage],
    size: int,
    per_passage: int,
    seed: int,
    query_of: Callable[[Passage, random.Random], str] = make_query,
) -> Material:
    """The material of one part of the training."""
    rng = random.Random(seed)
    pool = choose_pool(passages, size)
    texts = [passage.text for passage in pool]
    own = np.repeat(np.arange(len(pool)), per_passage)
    queries = [query_of(pool[index], rng) for index in own]
    top, scores = bm25_top(*bm25_index(texts), queries)
    return Material(texts, queries, own, top, scores)


@dataclass
class Taught:
    """Material with the teacher's unit vectors of its pool and its queries, [texts, 384] each.

    Subclasses draw the steps of a training; a step is decided by the seed and its number. The
    prefixes of a text stand behind BOS; without one, a text has no BOS either.
    """

    material: Material
    vectors: tuple[np.ndarray, np.ndarray]
    tokenizer: Tokenizer
    seed: int
    query_prefix: ClassVar[str] = ""
    passage_prefix: ClassVar[str] = ""

    def __post_init__(self) -> None:
        pool = self.material.pool
        cased = [_break_lines(text, random.Random(i)) for i, text in enumerate(pool)]
        lower = [text.lower() for text in pool]
        self.pool_ids = [self.encode(self.passage_prefix, texts) for texts in (cased, lower)]
        self.query_ids = self.encode(self.query_prefix, self.material.queries)

    def encode(self, prefix: str, texts: list[str]) -> list[np.ndarray]:
        """The token ids of each text."""
        whole = [prefix + text for text in texts]
        found = self.tokenizer.encode_batch(whole, add_special_tokens=bool(prefix))
        return [np.array(encoding.ids) for encoding in found]

    def rng(self, step: int) -> np.random.Generator:
        """All randomness of a step."""
        return np.random.default_rng((self.seed, step))


def _break_lines(text: str, rng: random.Random) -> str:
    """One passage in six gets line breaks between its sentences, like real ones."""
    return text.replace(". ", rng.choice((".\n", ".\n\n"))) if rng.random() < 1 / 6 else text
