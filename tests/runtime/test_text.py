"""Tokenising and truncation, with real tokenizers made here."""

import itertools
import json
from pathlib import Path

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from runtime import parts as parts_module
from runtime.engines.mock import byte_tokenizer
from runtime.errors import (
    ArtifactError,
    BlankInput,
    DeadlineExceeded,
    ForbiddenText,
    InputTooLong,
    NoPassages,
    NoTokens,
    ProfileError,
    TextPlace,
    TokenizerFailed,
)
from runtime.requests import EmbedRequest, RankRequest, TokenLimits, Truncate
from runtime.text import (
    PairEncoder,
    TextEncoder,
    load_tokenizer,
    unchecked,
)
from runtime.tokens import tokens_of
from tests.runtime.encoders import (
    TEMPLATE,
    Watched,
    bare_tokenizer,
    encoder,
    many,
    passed,
    text_encoder,
    text_of,
    with_bos,
)


def test_the_prompt_is_one_sequence_with_real_newlines() -> None:
    row = encoder(100).encode(RankRequest("why", ["because"])).rows[0]
    assert text_of(row.token_ids) == "question:why \n \n passage:because"
    assert row.type_ids is None


def test_braces_in_texts_are_only_text() -> None:
    row = encoder(200).encode(RankRequest("{passage}{0}", ["{query.__class__}"])).rows[0]
    assert text_of(row.token_ids) == "question:{passage}{0} \n \n passage:{query.__class__}"


@pytest.mark.parametrize(
    ("truncate", "max_tokens", "expected"),
    [
        ("END", 28, "question:why \n \n passage:bec"),
        ("START", 28, "question:why \n \n passage:use"),
        ("END", 20, "question:why \n \n pas"),
        ("START", 20, "ion:why \n \n passage:"),
    ],
)
def test_the_passage_gives_way_before_query_and_template(
    truncate: str, max_tokens: int, expected: str
) -> None:
    found = encoder(max_tokens).encode(RankRequest("why", ["because", "b"], truncate=truncate))  # type: ignore[arg-type]
    assert text_of(found.rows[0].token_ids) == expected[-max_tokens:]
    assert len(found.rows[0]) == max_tokens


TAILED = "ask:{query}\npassage:{passage}\nanswer:"


@pytest.mark.parametrize(
    ("truncate", "max_tokens", "expected"),
    [
        ("END", 28, "ask:why\npassage:beca\nanswer:"),
        ("START", 28, "ask:why\npassage:ause\nanswer:"),
        ("END", 24, "ask:why\npassage:\nanswer:"),
        ("START", 24, "ask:why\npassage:\nanswer:"),
        ("END", 12, "ask:\nanswer:"),
        ("START", 12, "age:\nanswer:"),
        ("END", 8, "\nanswer:"),
    ],
)
def test_a_tail_outlives_the_passage_and_the_query(
    truncate: Truncate, max_tokens: int, expected: str
) -> None:
    tokenizer = byte_tokenizer()
    bos = with_bos(tokenizer)
    found = PairEncoder(tokenizer, TAILED, max_tokens + 1).encode(
        RankRequest("why", ["because"], truncate=truncate)
    )
    assert found.rows[0].token_ids[0] == bos
    assert text_of(found.rows[0].token_ids[1:]) == expected
    assert found.truncated == 1


@pytest.mark.parametrize("truncate", ["END", "START"])
def test_a_vast_text_before_a_tail_is_cut_as_a_whole_one_would_be(truncate: Truncate) -> None:
    vast = "".join(f"word{i} " for i in range(20_000))
    row = encoder(60, TAILED).encode(RankRequest("why", [vast], truncate=truncate)).rows[0]
    kept = 60 - len(TAILED.format(query="why", passage=""))
    part = vast[:kept] if truncate == "END" else vast[-kept:]
    assert text_of(row.token_ids) == TAILED.format(query="why", passage=part)


def test_only_cut_passages_are_counted() -> None:
    found = encoder(28).encode(
        RankRequest("why", ["because", "ok", "because of it"], truncate="END")
    )
    assert found.truncated == 2


def test_without_truncation_the_true_length_is_reported() -> None:
    with pytest.raises(InputTooLong) as caught:
        encoder(30).encode(RankRequest("why", ["ok", "because"]))
    assert str(caught.value) == "Input length 32 exceeds maximum allowed token size 30"


def test_exactly_the_limit_fits() -> None:
    assert len(encoder(32).encode(RankRequest("why", ["because"])).rows[0]) == 32


@pytest.mark.parametrize(
    ("truncate", "tokens"),
    [("END", [0, 3, 4, 1, 5, 6, 1]), ("START", [0, 3, 4, 1, 7, 8, 1])],
)
def test_a_joined_pair_keeps_its_special_tokens(
    pair_tokenizer: tokenizers.Tokenizer, truncate: str, tokens: list[int]
) -> None:
    row = (
        PairEncoder(pair_tokenizer, None, 7)
        .encode(RankRequest("a b", ["c d e f"], truncate=truncate))
        .rows[0]
    )  # type: ignore[arg-type]
    assert row.token_ids.tolist() == tokens
    assert row.type_ids is not None
    assert row.type_ids.tolist() == [0, 0, 0, 0, 1, 1, 1]


def test_a_joined_pair_cuts_the_query_last(pair_tokenizer: tokenizers.Tokenizer) -> None:
    row = (
        PairEncoder(pair_tokenizer, None, 4)
        .encode(RankRequest("a b", ["c d"], truncate="START"))
        .rows[0]
    )
    assert row.token_ids.tolist() == [0, 4, 1, 1]


def test_bos_survives_cutting_from_the_start() -> None:
    tokenizer = byte_tokenizer()
    bos = with_bos(tokenizer)
    row = (
        PairEncoder(tokenizer, TEMPLATE, 12)
        .encode(RankRequest("why", ["because"], truncate="START"))
        .rows[0]
    )
    assert row.token_ids[0] == bos
    assert text_of(row.token_ids[1:]) == " \n passage:"


def test_truncation_left_in_the_tokenizer_file_is_ignored() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.enable_truncation(5)
    tokenizer.enable_padding(length=64)
    assert (
        len(PairEncoder(tokenizer, TEMPLATE, 100).encode(RankRequest("why", ["because"])).rows[0])
        == 32
    )


@pytest.mark.parametrize(
    ("query", "passages", "error", "where"),
    [
        ("", ["a"], BlankInput, "query"),
        (" \n\t ", ["a"], BlankInput, "query"),
        ("\u200b", ["a"], BlankInput, "query"),
        ("q", ["\ufeff\u2060\xad \x00\u200e\u3164\ufe0f\U000e0020"], BlankInput, "passages[0]"),
        ("q", ["\u200d" * 200_000], BlankInput, "passages[0]"),
        ("q", ["a", "\u2003"], BlankInput, "passages[1]"),
        ("q\ud800", ["a"], ForbiddenText, "query"),
        ("q", ["a", "b", "\ud800"], ForbiddenText, "passages[2]"),
    ],
)
def test_texts_that_cannot_be_scored_are_named(
    query: str, passages: list[str], error: type[Exception], where: str
) -> None:
    with pytest.raises(error, match=where.replace("[", r"\[")):
        encoder(100).encode(RankRequest(query, passages))


@pytest.mark.parametrize("text", ["\u200ba", " " * 40_000 + "é", "\U0001f600", "\u0301", "\ue000"])
def test_one_visible_character_is_enough(text: str) -> None:
    assert len(encoder(10**6).encode(RankRequest(text, [text])).rows) == 1


def test_a_pair_without_tokens_is_named() -> None:
    silent = PairEncoder(bare_tokenizer(), None, 100)
    assert [len(row) for row in silent.encode(RankRequest("a", ["b", "!"])).rows] == [2, 1]
    with pytest.raises(NoTokens, match=r"passages\[1\] has no tokens"):
        silent.encode(RankRequest("!", ["b", "!"]))
    with pytest.raises(NoTokens, match=r"passages\[2\]"):
        silent.encode(RankRequest(["a", "!", "!"], ["!", "b", "!"]))
    with pytest.raises(NoTokens, match=r"input\[1\]"):
        TextEncoder(bare_tokenizer(), {}, 100).encode(EmbedRequest(["a", "!"], None))


def test_pairs_of_many_queries_are_encoded_as_each_alone() -> None:
    pairs = [("why", "because"), ("how", "so"), ("why", "x" * 90), ("who", "me")]
    found = encoder(60).encode(many(pairs, truncate="END"))
    alone = [
        encoder(60).encode(RankRequest(query, [passage], truncate="END")).rows[0]
        for query, passage in pairs
    ]
    assert [row.token_ids.tolist() for row in found.rows] == [
        row.token_ids.tolist() for row in alone
    ]
    assert found.truncated == 1
    with pytest.raises(NoPassages):
        encoder(60).encode(many([]))


@pytest.mark.parametrize(
    ("pairs", "where"),
    [
        ([("why", "a"), (" ", "b"), (" ", "c")], "queries[1]"),
        ([("why", "a"), ("how", "\u200b")], "passages[1]"),
    ],
)
def test_a_blank_text_of_a_pair_is_named(pairs: list[tuple[str, str]], where: str) -> None:
    with pytest.raises(BlankInput) as caught:
        encoder(60).encode(many(pairs))
    assert str(TextPlace(caught.value.field, caught.value.index)) == where


def test_a_deadline_ends_the_counting_of_a_vast_text() -> None:
    looks = itertools.count()

    def check() -> None:
        if next(looks) == 3:
            raise DeadlineExceeded

    with pytest.raises(DeadlineExceeded):
        Watched(60).encode(RankRequest("why", ["word " * 300_000], truncate="NONE"), check)


def test_no_passages() -> None:
    with pytest.raises(NoPassages):
        encoder(100).encode(RankRequest("q", []))


def test_a_template_without_a_place_for_the_passage_is_refused() -> None:
    with pytest.raises(ProfileError, match="passage"):
        encoder(100, "question:{query}")


def test_an_unreadable_tokenizer_is_an_artifact_error(tmp_path) -> None:
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(ArtifactError, match=r"tokenizer\.json"):
        load_tokenizer(tmp_path / "tokenizer.json")


@pytest.mark.parametrize("blank", ["", " \n", "\u200b", "\u2060\ufeff"])
def test_texts_of_a_pair_may_be_blank(blank: str) -> None:
    rows = encoder(100).encode(RankRequest("why", ["because", blank], blanks=True)).rows
    assert text_of(rows[0].token_ids).endswith("because")
    assert len(encoder(100).encode(RankRequest(blank, ["because", blank], blanks=True)).rows) == 2
    pairs = [("a", blank), (blank, "b"), (blank, blank)]
    assert len(encoder(100).encode(many(pairs, blanks=True)).rows) == 3


def test_half_a_surrogate_pair_is_refused_among_blank_texts_too() -> None:
    with pytest.raises(ForbiddenText, match="query"):
        encoder(100).encode(RankRequest("\ud800", ["a"], blanks=True))
    with pytest.raises(ForbiddenText, match=r"passages\[1\]"):
        encoder(100).encode(RankRequest("", ["a", "\ud800"], blanks=True))


def test_blank_texts_may_be_embedded_and_listed() -> None:
    found = text_encoder(100).encode(EmbedRequest(["", "\u200b"], "query", blanks=True))
    assert text_of(found.rows[0].token_ids) == "query: "
    tokens = tokens_of(
        byte_tokenizer(), ["", "a"], 9, add_special_tokens=True, check=unchecked, blanks=True
    )
    assert [len(list(each)) for each in tokens] == [0, 1]


def test_a_text_without_any_token_is_refused_where_blanks_are_not() -> None:
    silent = PairEncoder(bare_tokenizer(), None, 100)
    assert len(silent.encode(RankRequest("a", ["", "b"], blanks=True)).rows) == 2
    with pytest.raises(NoTokens, match=r"passages\[0\]"):
        silent.encode(RankRequest("!", [""], blanks=True))
    with pytest.raises(NoTokens, match=r"input\[1\]"):
        TextEncoder(bare_tokenizer(), {}, 100).encode(EmbedRequest(["a", ""], None, blanks=True))


def test_an_empty_passage_beside_a_vast_query_is_too_long() -> None:
    with pytest.raises(InputTooLong):
        encoder(60).encode(RankRequest("why " * 50_000, [""], blanks=True))


def test_no_more_first_tokens_than_the_engine_takes() -> None:
    vast = "".join(f"word{i} " for i in range(20_000))
    found = encoder(60).encode(
        RankRequest("why", [vast], truncate="END", limits=TokenLimits(passage=10**30))
    )
    plain = encoder(60).encode(RankRequest("why", [vast], truncate="END"))
    assert found.rows[0].token_ids.tolist() == plain.rows[0].token_ids.tolist()
    assert found.truncated == 1


def test_a_deadline_ends_the_search_for_first_tokens() -> None:
    with pytest.raises(DeadlineExceeded):
        encoder(60).encode(
            RankRequest("why", ["because"], truncate="END", limits=TokenLimits(passage=3)), passed
        )


def test_a_deadline_ends_the_encoding() -> None:
    with pytest.raises(DeadlineExceeded):
        encoder(60).encode(RankRequest("why", ["because"]), passed)


def test_no_text_is_tokenised_after_the_deadline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which passes at the third look."""
    looks = itertools.count()

    def check() -> None:
        if next(looks) == 2:
            raise DeadlineExceeded

    monkeypatch.setattr(parts_module, "CHUNK_CHARS", 10)
    watched = Watched(60)
    with pytest.raises(DeadlineExceeded):
        watched.encode(
            RankRequest("why", ["because", "of", "that", "and nothing else"], truncate="END"), check
        )
    assert watched.tokenized == [("why", ["because"]), ("why", ["of"])]


@given(
    query=st.text(min_size=1, max_size=20),
    passage=st.text(min_size=1, max_size=60),
    max_tokens=st.integers(30, 80),
    truncate=st.sampled_from(["END", "START"]),
)
def test_any_text_fits_after_truncation(
    query: str, passage: str, max_tokens: int, truncate: str
) -> None:
    try:
        row = encoder(max_tokens).encode(RankRequest(query, [passage], truncate=truncate)).rows[0]  # type: ignore[arg-type]
    except (BlankInput, ForbiddenText):
        return
    whole = encoder(10_000).encode(RankRequest(query, [passage])).rows[0]
    assert len(row) == min(max_tokens, len(whole))


@pytest.mark.parametrize(
    "damage",
    [
        {"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "merges": ["a b"]}},
        {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAA"}},
    ],
)
def test_a_file_at_which_the_library_panics_is_an_artifact_s_error(
    tmp_path: Path, damage: dict[str, object]
) -> None:
    """Such errors are no Exception."""
    path = tmp_path / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(byte_tokenizer().to_str()), **damage}))
    with pytest.raises(ArtifactError, match="cannot read tokenizer"):
        load_tokenizer(path)


@pytest.mark.parametrize("truncate", ["NONE", "END"])
def test_a_tokenizer_that_gives_up_is_reported(truncate: Truncate) -> None:
    """Its pattern meets the library's limit of retries, which panics: that is no Exception."""
    tokenizer = byte_tokenizer()
    split = pre_tokenizers.Split(tokenizers.Regex("(a|aa)+b"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel()])
    encoder, bad = PairEncoder(tokenizer, None, 60), "a" * 50
    assert len(encoder.encode(RankRequest("q", ["aab"], truncate=truncate)).rows) == 1
    with pytest.raises(TokenizerFailed, match="gave up on a text") as message:
        encoder.encode(RankRequest("q", ["fine", bad], truncate=truncate))
    assert bad not in str(message.value)
    with pytest.raises(TokenizerFailed):
        next(tokens_of(tokenizer, [bad], 60, add_special_tokens=False, check=unchecked))
