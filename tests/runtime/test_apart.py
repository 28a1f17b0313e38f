"""Prompts whose query and passage each end a part that is tokenised by itself (mxbai-rerank)."""

import itertools

import pytest

from runtime.errors import InputTooLong
from runtime.requests import RankRequest
from runtime.text import PairEncoder
from tests.zoo import vocabularies

PROMPT = "<|im_start|>user\n{instruction}query: {query}\ndocument: {passage}\nJudge<|im_end|>\n"
QUERY, PASSAGE = "why?", "Because it rained.\nAnd then."
# The end of a sentence and the newline behind it, which the prompt has behind both texts.
JOINT = ("?\n", ".\n")


def pairs(max_tokens: int = 256, *, apart: bool = True) -> PairEncoder:
    return PairEncoder(
        vocabularies.qwen(),
        PROMPT,
        max_tokens,
        "",
        "instruction: {instruction}\n",
        tokenize_apart=apart,
    )


def read(encoder: PairEncoder, passage: str = PASSAGE, told: str | None = None) -> list[str]:
    """The text of each token; special tokens of the passage stay text, which changes nothing
    else."""
    found = [
        encoder.encode(RankRequest(QUERY, [passage], told, truncate="END", plain=plain)).rows[0]
        for plain in (False, True)
    ]
    assert found[0].token_ids.tolist() == found[1].token_ids.tolist()
    words = vocabularies.qwen()
    return [
        words.decode([token], skip_special_tokens=False) for token in found[0].token_ids.tolist()
    ]


def own(*parts: str) -> list[int]:
    found = (vocabularies.qwen().encode(part, add_special_tokens=False).ids for part in parts)
    return [*itertools.chain(*found)]


def test_each_part_has_its_own_tokens() -> None:
    parts = (
        f"<|im_start|>user\nquery: {QUERY}",
        f"\ndocument: {PASSAGE}",
        "\nJudge<|im_end|>\n",
    )
    row = pairs().encode(RankRequest(QUERY, [PASSAGE])).rows[0]
    assert row.token_ids.tolist() == own(*parts)
    joined = pairs(apart=False).encode(RankRequest(QUERY, [PASSAGE])).rows[0]
    assert joined.token_ids.tolist() == own("".join(parts))
    assert len(joined) == len(row) - len(JOINT)


def test_a_passage_keeps_the_tokens_that_it_has_itself() -> None:
    found = read(pairs())
    assert found.count(".\n") == 1  # inside the passage
    assert "".join(found) == PROMPT.replace("{instruction}", "").format(
        query=QUERY, passage=PASSAGE
    )


@pytest.mark.parametrize("told", [None, "", "Find code."])
def test_the_words_around_an_instruction_come_and_go_with_it(told: str | None) -> None:
    line = f"instruction: {told}\n" if told else ""
    assert "".join(read(pairs(), told=told)).startswith(f"<|im_start|>user\n{line}query: why?")
    if told:
        assert ".\n" in read(pairs(), "Because", told)  # in one part with the query


def test_a_passage_is_cut_and_the_tail_is_not() -> None:
    whole = pairs().encode(RankRequest(QUERY, [PASSAGE])).rows[0].token_ids.tolist()
    behind = len(own("\nJudge<|im_end|>\n"))
    for fewer in (1, 2, 5):
        encoder = pairs(len(whole) - fewer)
        found = encoder.encode(RankRequest(QUERY, [PASSAGE], truncate="END")).rows[0]
        assert found.token_ids.tolist() == whole[: -behind - fewer] + whole[-behind:]
        read(encoder)
        with pytest.raises(InputTooLong):
            encoder.encode(RankRequest(QUERY, [PASSAGE], truncate="NONE"))


def test_many_passages_share_a_part_and_keep_their_order() -> None:
    texts = [PASSAGE, "Because.", PASSAGE, "", "No."]
    together = pairs().encode(RankRequest(QUERY, texts, blanks=True)).rows
    alone = [pairs().encode(RankRequest(QUERY, [text], blanks=True)).rows[0] for text in texts]
    assert [row.key for row in together] == [row.key for row in alone]


def test_what_a_tokenizer_adds_stands_around_the_whole() -> None:
    ending = vocabularies.qwen(adds_eos=True)
    encoder = PairEncoder(ending, "{query}\n{passage}\n", 64, tokenize_apart=True)
    row = encoder.encode(RankRequest(QUERY, ["Yes."])).rows[0]
    end = ending.token_to_id("<|endoftext|>")
    assert row.token_ids.tolist() == [*own(QUERY, "\nYes.", "\n"), end]
