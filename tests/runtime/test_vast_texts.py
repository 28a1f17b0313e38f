"""Vast texts are cut in pieces; limits of query, passage and pair."""

import itertools

import numpy as np
import pytest
import tokenizers
from tokenizers import models, pre_tokenizers

from runtime.errors import (
    BlankInput,
    ForbiddenText,
    InputTooLong,
    TextTooLarge,
)
from runtime.requests import EmbedRequest, RankRequest, TokenLimits
from runtime.text import (
    PairEncoder,
)
from tests.runtime.encoders import Watched, encoder, many, text_encoder, text_of


@pytest.mark.parametrize("truncate", ["END", "START"])
def test_a_vast_text_is_cut_as_a_whole_one_would_be(truncate: str) -> None:
    """Only the part that matters is tokenised, with the same result."""
    vast = "".join(f"word{i} " for i in range(20_000))
    watched = Watched(60)
    row = watched.encode(RankRequest("why", [vast], truncate=truncate)).rows[0]  # type: ignore[arg-type]
    assert all(len(passages[0]) < 60 * 32 for _, passages in watched.tokenized)
    whole = encoder(10**6).encode(RankRequest("why", [vast])).rows[0].token_ids
    template = len("question:why \n \n passage:")
    kept = whole[:60] if truncate == "END" else np.r_[whole[:template], whole[-60 + template :]]
    assert row.token_ids.tolist() == kept.tolist()


def test_a_vast_texts_true_length_is_reported() -> None:
    vast = "word " * 30_000
    with pytest.raises(InputTooLong, match=f"Input length {len(vast) + 25} exceeds"):
        encoder(60).encode(RankRequest("why", ["short", vast]))


def test_of_a_text_that_is_too_long_anyway_not_all_is_counted() -> None:
    looks = itertools.count()
    vast = "word " * 2_000_000  # ten times what is counted
    with pytest.raises(InputTooLong) as message:
        encoder(60).encode(RankRequest("why", [vast], truncate="NONE"), lambda: next(looks))
    assert message.value.found_tokens == pytest.approx(len(vast), rel=0.01)
    assert next(looks) < 30


def test_a_vast_query_is_bounded_too() -> None:
    watched = Watched(60)
    found = watched.encode(RankRequest("why " * 50_000, ["because"] * 50, truncate="END"))
    assert max(len(query) for query, _ in watched.tokenized) < 60 * 32
    assert found.truncated == 50
    assert {len(row) for row in found.rows} == {60}


def test_a_vast_query_is_counted_in_pieces() -> None:
    watched = Watched(60)
    with pytest.raises(InputTooLong) as message:
        watched.encode(RankRequest("why " * 500_000, ["because"], truncate="NONE"))
    assert message.value.found_tokens == pytest.approx(2_000_000, rel=0.01)
    assert max(len(query) for query, _ in watched.tokenized) == 0


@pytest.mark.parametrize("where", ["query", "passage"])
def test_what_is_vast_and_has_few_tokens_is_refused(where: str) -> None:
    tokenizer = tokenizers.Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1, "b": 2}, "[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    blanks = "a" + " " * 5_000_000 + "b"
    texts = ("a", blanks) if where == "passage" else (blanks, "a")
    with pytest.raises(TextTooLarge, match="found 5000003 characters, wanted at most 4194304"):
        PairEncoder(tokenizer, None, 100).encode(RankRequest(texts[0], [texts[1]]))
    assert (
        len(
            PairEncoder(tokenizer, None, 100)
            .encode(RankRequest("a", [blanks], truncate="END"))
            .rows[0]
        )
        <= 3
    )


def test_of_each_passage_the_first_tokens_are_looked_at() -> None:
    passages = ["because of it", "because", "ok"]
    found = encoder(100).encode(RankRequest("why", passages, limits=TokenLimits(passage=4)))
    prompt = "question:why \n \n passage:"
    assert [text_of(row.token_ids) for row in found.rows] == [
        f"{prompt}{passage[:4]}" for passage in passages
    ]
    assert found.truncated == 2


def test_a_passage_that_is_cut_twice_counts_once() -> None:
    found = encoder(28).encode(
        RankRequest("why", ["because of it", "bec"], truncate="END", limits=TokenLimits(passage=5))
    )
    assert [text_of(row.token_ids)[-3:] for row in found.rows] == ["bec", "bec"]
    assert found.truncated == 1


def test_what_is_left_of_a_passage_may_be_blank() -> None:
    found = encoder(100).encode(RankRequest("why", ["   because"], limits=TokenLimits(passage=2)))
    assert text_of(found.rows[0].token_ids).endswith("passage:  ")
    with pytest.raises(BlankInput, match=r"passages\[0\]"):
        encoder(100).encode(RankRequest("why", ["   "], limits=TokenLimits(passage=2)))
    with pytest.raises(ForbiddenText, match=r"passages\[0\]"):
        encoder(100).encode(RankRequest("why", ["a\ud800"], limits=TokenLimits(passage=2)))


@pytest.mark.parametrize("truncate", ["END", "START"])
def test_query_and_passage_keep_their_first_tokens(truncate: str) -> None:
    limits = TokenLimits(query=2, passage=5)
    found = encoder(100).encode(
        RankRequest("why", ["because", "ok"], truncate=truncate, limits=limits)
    )  # type: ignore[arg-type]
    prompt = "question:wh \n \n passage:"
    assert [text_of(row.token_ids) for row in found.rows] == [f"{prompt}becau", f"{prompt}ok"]
    assert found.truncated == 2  # each has lost a part of its query


@pytest.mark.parametrize(("truncate", "kept"), [("END", "bec"), ("START", "use")])
def test_a_limit_of_a_pair_counts_all_of_it(truncate: str, kept: str) -> None:
    limits = TokenLimits(pair=28)
    found = encoder(100).encode(
        RankRequest("why", ["because", "ok"], truncate=truncate, limits=limits)
    )  # type: ignore[arg-type]
    prompt = "question:why \n \n passage:"
    assert [text_of(row.token_ids) for row in found.rows] == [prompt + kept, f"{prompt}ok"]
    assert found.truncated == 1
    pairs = [("why", "because"), ("why", "ok")]
    found = encoder(100).encode(many(pairs, truncate=truncate, limits=limits))
    assert [text_of(row.token_ids) for row in found.rows] == [prompt + kept, f"{prompt}ok"]


def test_a_longer_pair_is_refused_without_truncation() -> None:
    with pytest.raises(InputTooLong) as caught:
        encoder(100).encode(RankRequest("why", ["ok", "because"], limits=TokenLimits(pair=30)))
    assert str(caught.value) == "Input length 32 exceeds maximum allowed token size 30"


def test_no_limit_of_a_pair_is_above_the_engine_s() -> None:
    limits = TokenLimits(pair=10**30)
    assert (
        len(
            encoder(28)
            .encode(RankRequest("why", ["because"], truncate="END", limits=limits))
            .rows[0]
        )
        == 28
    )


def test_of_a_text_to_embed_so_many_tokens_are_kept() -> None:
    found = text_encoder(100).encode(
        EmbedRequest(["abcdef", "ab"], "query", truncate="START", limits=TokenLimits(pair=9))
    )
    assert [text_of(row.token_ids) for row in found.rows] == ["query: ef", "query: ab"]
    assert found.truncated == 1
    with pytest.raises(InputTooLong):
        text_encoder(100).encode(EmbedRequest(["abcdef"], "query", limits=TokenLimits(pair=9)))
