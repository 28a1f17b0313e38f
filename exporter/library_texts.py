"""Real texts that every machine with Python has: the paragraphs of its language reference.

Low precisions are calibrated on some of them and proven on others. Passages that share words with
their query have similar scores, so that a changed order shows.
"""

import random
import re
from collections.abc import Sequence
from functools import cache
from itertools import accumulate
from pydoc_data.topics import topics

from exporter.parity_texts import Group

_FEWEST_WORDS, _MOST_WORDS = 20, 120
_LONGEST_WORDS = 360
# A query must leave room for a passage, whatever the limit is.
_QUERY_WORDS, _TOKENS_PER_QUERY_WORD = 12, 16
_QUERIES, _CANDIDATES = 8, 24
_CALIBRATION = 64


@cache
def paragraphs() -> tuple[str, ...]:
    """All paragraphs of 20 to 120 words, in a fixed shuffled order."""
    found = [
        " ".join(paragraph.split())
        for name in sorted(topics)
        for paragraph in re.split(r"\n\s*\n", topics[name])
    ]
    fitting = [p for p in dict.fromkeys(found) if _FEWEST_WORDS <= len(p.split()) <= _MOST_WORDS]
    random.Random(0).shuffle(fitting)
    return tuple(fitting)


def candidate_groups(max_tokens: int) -> tuple[Group, ...]:
    """Queries with the other paragraphs that share most words with them.

    A query is the beginning of a paragraph, shorter if `max_tokens` is small; that paragraph is not
    among its passages.
    """
    texts = paragraphs()[_CALIBRATION:]
    words = [set(re.findall(r"\w{4,}", text.lower())) for text in texts]
    groups = []
    for number in range(_QUERIES):
        query = _beginning(texts[number], max_tokens)
        wanted = set(re.findall(r"\w{4,}", query.lower()))
        others = [i for i in range(len(texts)) if i != number]
        others.sort(key=lambda i: -len(words[i] & wanted) / len(words[i] | wanted))
        passages = tuple(texts[i] for i in others[:_CANDIDATES])
        groups.append(Group(f"candidates {number}", query, passages))
    return tuple(groups)


def calibration_pairs(max_tokens: int) -> Sequence[tuple[str, str]]:
    """Queries and passages, each taken from another paragraph; none is among the candidates."""
    texts = paragraphs()[:_CALIBRATION]
    return [(_beginning(texts[i - 1], max_tokens), text) for i, text in enumerate(texts)]


def mixed_group(count: int, max_tokens: int) -> Group:
    """A query and `count` passages of 20 to 360 words, evenly on a logarithmic scale and in mixed
    order, as retrievers find them: many short ones and few long."""
    texts = paragraphs()[_CALIBRATION:]
    words = " ".join(texts).split()
    growth = (_LONGEST_WORDS / _FEWEST_WORDS) ** (1 / max(1, count - 1))
    lengths = [round(_FEWEST_WORDS * growth**i) for i in range(count)]
    random.Random(0).shuffle(lengths)
    ends = list(accumulate(lengths))
    passages = [" ".join(words[end - n : end]) for n, end in zip(lengths, ends, strict=True)]
    return Group("mixed", _beginning(texts[-1], max_tokens), tuple(passages))


def _beginning(text: str, max_tokens: int) -> str:
    words = min(_QUERY_WORDS, max(1, max_tokens // _TOKENS_PER_QUERY_WORD))
    return " ".join(text.split()[:words])
