"""Tokenising and truncation, with real tokenizers made here."""

import itertools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import models, pre_tokenizers, processors

from runtime import parts as parts_module
from runtime.engines.mock import byte_tokenizer
from runtime.errors import (
    ArtifactError,
    BlankInput,
    DeadlineExceeded,
    ForbiddenText,
    InputTooLong,
    InputTypeRequired,
    NoInputs,
    NoPassages,
    NoTokens,
    ProfileError,
    TextPlace,
    TextTooLarge,
    TokenizerFailed,
)
from runtime.requests import EmbedRequest, RankRequest, TokenLimits, Truncate
from runtime.text import (
    Encoding,
    PairEncoder,
    TextEncoder,
    load_tokenizer,
    unchecked,
)
from runtime.tokens import Token, tokens_of

TEMPLATE = "question:{query} \n \n passage:{passage}"
PREFIXES = {"query": "query: ", "passage": "passage: "}


def encoder(max_tokens: int, template: str | None = TEMPLATE) -> PairEncoder:
    """One token per byte, so that what was cut can be read off."""
    return PairEncoder(byte_tokenizer(), template, max_tokens)


def many(pairs: Sequence[tuple[str, str]], **more: Any) -> RankRequest:
    """Pairs with a query each."""
    return RankRequest([query for query, _ in pairs], [text for _, text in pairs], **more)


class Watched(PairEncoder):
    """The same, which remembers what it tokenises."""

    def __init__(self, max_tokens: int) -> None:
        super().__init__(byte_tokenizer(), TEMPLATE, max_tokens)
        self.tokenized: list[tuple[str, list[str]]] = []

    def _encode_chunk(self, pairs: Sequence[tuple[str, str]]) -> list[Encoding]:
        self.tokenized.append((pairs[0][0], [passage for _, passage in pairs]))
        return super()._encode_chunk(pairs)


def text_encoder(max_tokens: int, prefixes: dict[str, str] = PREFIXES) -> TextEncoder:
    return TextEncoder(byte_tokenizer(), prefixes, max_tokens)


def with_bos(tokenizer: tokenizers.Tokenizer) -> int:
    """Let `tokenizer` put <s> before every sequence; the id of that token."""
    tokenizer.add_special_tokens(["<s>"])
    bos = tokenizer.token_to_id("<s>")
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", bos)]
    )
    return bos


def passed() -> None:
    raise DeadlineExceeded


def text_of(ids: np.ndarray) -> str:
    tokenizer = byte_tokenizer()
    return "".join(tokenizer.id_to_token(i) for i in ids).replace("Ġ", " ").replace("Ċ", "\n")


def bare_tokenizer() -> tokenizers.Tokenizer:
    """It knows three letters, makes nothing of all else, and adds nothing."""
    vocabulary = {"a": 0, "b": 1, "c": 2}
    return tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))


@pytest.fixture
def pair_tokenizer() -> tokenizers.Tokenizer:
    """Words and BERT's pair layout: [CLS] query [SEP] passage [SEP] with type ids."""
    words = ["[CLS]", "[SEP]", "[UNK]", "a", "b", "c", "d", "e", "f"]
    tokenizer = tokenizers.Tokenizer(
        models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 0), ("[SEP]", 1)],
    )
    return tokenizer


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
        ("END", 5, "\nansw"),
        ("START", 5, "swer:"),
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
    ("input_type", "expected"),
    [("query", "query:  two blanks "), ("passage", "passage:  two blanks ")],
)
def test_a_prefix_ends_in_one_space_and_the_text_keeps_its_own(
    input_type: str, expected: str
) -> None:
    row = text_encoder(100).encode(EmbedRequest([" two blanks "], input_type)).rows[0]  # type: ignore[arg-type]
    assert text_of(row.token_ids) == expected
    assert row.type_ids is None


@pytest.mark.parametrize("input_type", ["query", "passage", None])
def test_a_symmetric_model_puts_nothing_before_a_text(input_type: str | None) -> None:
    row = text_encoder(100, {}).encode(EmbedRequest(["because"], input_type)).rows[0]  # type: ignore[arg-type]
    assert text_of(row.token_ids) == "because"


def test_an_asymmetric_model_wants_to_know_the_type() -> None:
    with pytest.raises(InputTypeRequired) as caught:
        text_encoder(100).encode(EmbedRequest(["because"], None))
    assert str(caught.value) == "'input_type' parameter is required for asymmetric models"


@pytest.mark.parametrize(
    ("truncate", "max_tokens", "expected"),
    [
        ("END", 10, "query: bec"),
        ("START", 10, "query: use"),
        ("END", 4, "quer"),
        ("START", 4, "ry: "),
    ],
)
def test_the_text_gives_way_before_its_prefix(
    truncate: str, max_tokens: int, expected: str
) -> None:
    found = text_encoder(max_tokens).encode(
        EmbedRequest(["because", "b"], "query", truncate=truncate)
    )  # type: ignore[arg-type]
    assert text_of(found.rows[0].token_ids) == expected
    assert found.truncated == (1 if max_tokens == 10 else 2)


def test_a_text_without_prefix_is_cut_after_its_bos() -> None:
    tokenizer = byte_tokenizer()
    bos = with_bos(tokenizer)
    row = (
        TextEncoder(tokenizer, {}, 4)
        .encode(EmbedRequest(["because"], None, truncate="START"))
        .rows[0]
    )
    assert row.token_ids[0] == bos
    assert text_of(row.token_ids[1:]) == "use"


def test_a_texts_length_counts_its_prefix() -> None:
    assert len(text_encoder(14).encode(EmbedRequest(["because"], "query")).rows[0]) == 14
    with pytest.raises(InputTooLong) as caught:
        text_encoder(13).encode(EmbedRequest(["ok", "because"], "query"))
    assert str(caught.value) == "Input length 14 exceeds maximum allowed token size 13"


@pytest.mark.parametrize("truncate", ["END", "START"])
def test_a_vast_input_is_cut_as_a_whole_one_would_be(truncate: str) -> None:
    vast = "".join(f"word{i} " for i in range(20_000))
    row = text_encoder(60).encode(EmbedRequest([vast], "passage", truncate=truncate)).rows[0]  # type: ignore[arg-type]
    kept = vast[: 60 - len("passage: ")] if truncate == "END" else vast[-60 + len("passage: ") :]
    assert text_of(row.token_ids) == f"passage: {kept}"


def test_a_vast_inputs_true_length_is_reported() -> None:
    vast = "word " * 30_000
    with pytest.raises(InputTooLong, match=f"Input length {len(vast) + 7} exceeds"):
        text_encoder(60).encode(EmbedRequest(["short", vast], "query"))


@pytest.mark.parametrize(
    ("texts", "error", "where"),
    [
        (["a", "b", "c", ""], BlankInput, "input[3]"),
        ([" \n\u2003"], BlankInput, "input[0]"),
        (["a", "q\ud800"], ForbiddenText, "input[1]"),
        (["\udfff"], ForbiddenText, "input[0]"),
    ],
)
def test_inputs_that_cannot_be_embedded_are_named(
    texts: list[str], error: type[BlankInput | ForbiddenText], where: str
) -> None:
    with pytest.raises(error) as caught:
        text_encoder(100).encode(EmbedRequest(texts, "query"))
    assert str(TextPlace(caught.value.field, caught.value.index)) == where


def test_no_inputs() -> None:
    with pytest.raises(NoInputs, match="found 0 inputs"):
        text_encoder(100).encode(EmbedRequest([], "query"))


def test_a_deadline_ends_the_encoding_of_texts() -> None:
    with pytest.raises(DeadlineExceeded):
        text_encoder(60).encode(EmbedRequest(["because"], "query"), passed)


def tokens(
    tokenizer: tokenizers.Tokenizer, *texts: str, most: int = 100, special: bool
) -> list[list[Token]]:
    found = tokens_of(tokenizer, texts, most, add_special_tokens=special, check=unchecked)
    return [list(one) for one in found]


def test_tokens_say_where_they_stand_and_which_were_added(
    pair_tokenizer: tokenizers.Tokenizer,
) -> None:
    text = "a ü b"
    (found,) = tokens(pair_tokenizer, text, special=True)
    assert [(t.id, t.text, t.special) for t in found] == [
        (0, "[CLS]", True),
        (3, "a", False),
        (2, "[UNK]", False),
        (4, "b", False),
        (1, "[SEP]", True),
    ]
    assert [text[t.start : t.stop] for t in found if not t.special] == ["a", "ü", "b"]
    (alone,) = tokens(pair_tokenizer, text, special=False)
    assert alone == [token for token in found if not token.special]


@pytest.mark.parametrize(("text", "error"), [(" ", BlankInput), ("a\ud800", ForbiddenText)])
def test_a_text_that_has_no_tokens_is_refused(text: str, error: type[Exception]) -> None:
    with pytest.raises(error, match=r"inputs\[1\]"):
        tokens(byte_tokenizer(), "a", text, special=True)


def test_no_more_tokens_are_listed_than_all_texts_may_have() -> None:
    assert len(tokens(byte_tokenizer(), "a" * 5, "b" * 5, most=10, special=True)) == 2
    with pytest.raises(InputTooLong, match="Input length 11 exceeds"):
        tokens(byte_tokenizer(), "a" * 5, "b" * 6, most=10, special=True)


def test_a_vast_text_is_counted_before_it_is_tokenised_as_a_whole() -> None:
    vast = "word " * 30_000
    seen: list[int] = []

    class Watched:
        def encode_batch(self, texts: list[str], **options: bool) -> list[tokenizers.Encoding]:
            seen.extend(map(len, texts))
            return byte_tokenizer().encode_batch(texts, **options)

    with pytest.raises(InputTooLong, match="Input length 150000 exceeds"):
        tokens(Watched(), vast, most=149_999, special=True)  # type: ignore[arg-type]
    assert max(seen) <= 1 << 16
    (found,) = tokens(byte_tokenizer(), vast, most=150_000, special=True)
    assert len(found) == 150_000


def test_listing_ends_when_nobody_wants_it() -> None:
    looks = itertools.count()

    def check() -> None:
        if next(looks) == 2:
            raise DeadlineExceeded

    found = tokens_of(byte_tokenizer(), ["a"] * 9, 100, add_special_tokens=True, check=check)
    with pytest.raises(DeadlineExceeded):
        list(found)
    assert next(looks) == 3


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
