"""The bench's texts: exact token counts, the same every time."""

from pathlib import Path

import pytest

from benchmarks.texts import LONGEST, SHORTEST, TextMaker, mixed_lengths
from runtime.profile import load_model_profile

TOKENIZER = Path(__file__).resolve().parents[2] / "embedded" / "rank" / "tokenizer.json"


@pytest.fixture
def maker() -> TextMaker:
    return TextMaker(TOKENIZER, load_model_profile("tiny-rerank-v1").template, 8192)


def test_pairs_have_the_tokens_that_were_asked_for(maker: TextMaker) -> None:
    lengths = [*range(SHORTEST, SHORTEST + 20), 128, LONGEST, 2048]
    texts = maker.make(lengths)
    assert texts.token_counts == lengths == maker.count(texts.passages)
    assert texts.tokens == sum(lengths)


def test_passages_of_one_length_differ_and_are_the_same_every_time(maker: TextMaker) -> None:
    passages = maker.make([64] * 8).passages
    assert len(set(passages)) == 8
    assert maker.make([64] * 8).passages == passages


def test_a_length_below_the_querys_own_is_refused(maker: TextMaker) -> None:
    with pytest.raises(ValueError, match="wanted 5"):
        maker.make([5])


def test_mixed_lengths_span_the_range_with_many_short_ones() -> None:
    lengths = mixed_lengths(40)
    assert (min(lengths), max(lengths), len(lengths)) == (SHORTEST, LONGEST, 40)
    assert sorted(lengths)[20] < sum(lengths) / 40 < (SHORTEST + LONGEST) / 2
    assert lengths != sorted(lengths)
    assert mixed_lengths(1) == [SHORTEST]
    assert min(mixed_lengths(40, LONGEST, 110)) == 110
