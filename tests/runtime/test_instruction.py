"""The instruction in a prompt: its default, a request's own, and its share of the limits."""

from typing import Any

import pytest

from runtime.engines.mock import byte_tokenizer
from runtime.errors import ForbiddenText, InputTooLong, InstructionNotTaken, ProfileError
from runtime.profile import ModelProfile, check_instruction
from runtime.requests import RankRequest, TokenLimits
from runtime.template import Template, filled
from runtime.text import PairEncoder
from tests.runtime.encoders import encoder, text_of

TOLD = "do:{instruction}\nask:{query}\npassage:{passage}\nanswer:"


def told(max_tokens: int = 200) -> PairEncoder:
    """One token a byte; the default instruction is find."""
    return PairEncoder(byte_tokenizer(), TOLD, max_tokens, "find")


def profile(**more: Any) -> ModelProfile:
    return ModelProfile(id="a/b", kind="rank", max_tokens=9, padding_side="left", **more)


def read(request: RankRequest, max_tokens: int = 200) -> str:
    return text_of(told(max_tokens).encode(request).rows[0].token_ids)


@pytest.mark.parametrize("asked", [None, ""])
def test_without_a_word_the_default_stands_in_the_prompt(asked: str | None) -> None:
    found = read(RankRequest("why", ["because"], asked))
    assert found == "do:find\nask:why\npassage:because\nanswer:"


def test_an_own_instruction_stands_there_as_it_is() -> None:
    found = read(RankRequest("{instruction}", ["{query}"], "{passage} {instruction}"))
    assert found == "do:{passage} {instruction}\nask:{instruction}\npassage:{query}\nanswer:"


def test_requests_leave_no_trace_in_the_encoder() -> None:
    one = told()
    rows = [one.encode(RankRequest("q", ["p"], text)).rows[0] for text in ("sort", None, "sort")]
    assert rows[0].token_ids.tolist() == rows[2].token_ids.tolist()
    assert text_of(rows[1].token_ids).startswith("do:find\n")


def test_it_counts_as_part_of_the_query() -> None:
    limits = TokenLimits(query=8)
    assert read(RankRequest("why not", ["p"], "sort", limits=limits)) == (
        "do:sort\nask:why \npassage:p\nanswer:"
    )
    # The default is the prompt's own.
    assert "ask:why not\n" in read(RankRequest("why not", ["p"], limits=limits))
    assert RankRequest("why", ["p"], "sort").characters.tolist() == [[7, 1]]


def test_one_that_leaves_no_room_for_the_query_is_refused() -> None:
    request = RankRequest("why", ["p"], "sort", limits=TokenLimits(query=4))
    with pytest.raises(InputTooLong, match="Input length 5 exceeds maximum allowed token size 4"):
        told().encode(request)


def test_a_passage_is_cut_before_it_and_the_tail_never() -> None:
    request = RankRequest("why", ["because"], "sort", truncate="END")
    assert read(request, 33) == "do:sort\nask:why\npassage:b\nanswer:"[:33]
    with pytest.raises(InputTooLong, match="Input length 8 exceeds maximum allowed token size 7"):
        told(7).encode(request)


def test_a_prompt_without_a_place_takes_none() -> None:
    with pytest.raises(InstructionNotTaken, match="instruction is not taken"):
        encoder(100).encode(RankRequest("q", ["p"], "sort"))
    with pytest.raises(InstructionNotTaken):
        encoder(100, None).encode(RankRequest("q", ["p"], "sort"))


def test_half_a_character_is_refused_by_its_name() -> None:
    with pytest.raises(ForbiddenText, match="instruction contains half of a surrogate pair"):
        told().encode(RankRequest("q", ["p"], "\ud800"))


@pytest.mark.parametrize(
    ("template", "instruction"),
    [
        (TOLD, None),
        ("{query}{passage}", "find"),
        ("{query}{instruction}{passage}", "find"),
        ("{instruction}{instruction}{query}{passage}", "find"),
        (TOLD, "find {passage}"),
    ],
)
def test_template_and_default_must_fit(template: str, instruction: str | None) -> None:
    with pytest.raises(ValueError, match="instruction"):
        check_instruction(template, instruction)
    with pytest.raises(ValueError, match="instruction"):
        profile(template=template, instruction=instruction)


@pytest.mark.parametrize("words", [("a", "b", "c"), ("",)])
def test_words_are_one_or_two(words: tuple[str, ...]) -> None:
    with pytest.raises(ValueError, match="wanted one or two"):
        profile(words=words)


@pytest.mark.parametrize("more", [{"instruction": "x"}, {"tokenize_apart": True}])
def test_an_instruction_needs_a_template(more: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="without a template"):
        profile(**more)


@pytest.mark.parametrize(
    ("template", "instruction", "form"),
    [
        (TOLD, "", "no field"),
        (TOLD, "", "{instruction}{instruction}"),
        (TOLD, "", "{query} {instruction}"),
        ("{query}{passage}", None, "{instruction}"),
        (None, None, "{instruction}"),
    ],
)
def test_the_words_around_an_instruction_have_a_place_for_it(
    template: str | None, instruction: str | None, form: str
) -> None:
    with pytest.raises(ValueError, match="instruction_format"):
        profile(template=template, instruction=instruction, instruction_format=form)


def test_a_template_is_filled_with_what_there_is() -> None:
    assert filled("a{instruction}b", None) == filled("a{instruction}b", "") == "ab"
    assert filled("a{instruction}b", "x") == "axb"
    assert filled("a{instruction}b", "x", "<{instruction}>") == "a<x>b"
    assert filled("a{instruction}b", "", "<{instruction}>") == "ab"


def test_a_template_needs_both_texts() -> None:
    with pytest.raises(ProfileError, match=r"wanted \{query\} followed by \{passage\}"):
        Template.parse("{passage}{query}")
