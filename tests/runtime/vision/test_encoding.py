"""Rows with images: their ids are those of the whole text, their places are no text's."""

from collections.abc import Sequence
from contextlib import closing

import numpy as np
import pytest

from runtime.errors import BlankInput, ImageNotAllowed, InputTooLong, InputTypeRequired
from runtime.requests import (
    NO_LIMITS,
    EmbedRequest,
    ImageEmbeddings,
    Passage,
    RankRequest,
    TokenLimits,
    Truncate,
)
from runtime.text import Encodings, PairEncoder, unchecked
from runtime.tokenizing import TokenizerPool
from runtime.vision.encoding import VisionPairEncoder, VisionTextEncoder
from runtime.vision.layout import ImageEncoding, image_inputs
from tests.tiny_vision import AFTER, BEFORE, CONTEXT, TOKENS, tokenizer
from tests.vision_rules import VISION

TEMPLATE = "question:{query} \n \n passage:{passage}"
PREFIXES = {"query": "query: ", "passage": "passage: "}


def image(tiles: int, name: str = "a") -> ImageEmbeddings:
    numbers = np.arange(tiles * TOKENS * 64, dtype=np.float32).reshape(tiles, TOKENS, 64)
    return ImageEmbeddings(name.encode(), numbers + ord(name))


def run(tiles: int) -> str:
    return BEFORE + CONTEXT * (TOKENS * tiles) + AFTER


def ids(text: str) -> list[int]:
    return list(tokenizer().encode(text).ids)


def ranked(
    encoder: VisionPairEncoder,
    passages: Sequence[tuple[str, str]],
    images: Sequence[ImageEmbeddings | None],
    truncate: Truncate = "NONE",
    limits: TokenLimits = NO_LIMITS,
) -> Encodings:
    queries, texts = [query for query, _ in passages], [text for _, text in passages]
    seen = with_images(texts, images)
    return encoder.encode(RankRequest(queries, seen, truncate=truncate, limits=limits))


def with_images(
    texts: Sequence[str], images: Sequence[ImageEmbeddings | None]
) -> list[Passage | str]:
    pairs = zip(texts, images, strict=True)
    return [text if image is None else Passage(text, image) for text, image in pairs]


def pairs(max_tokens: int = 256) -> VisionPairEncoder:
    return VisionPairEncoder(tokenizer(), TEMPLATE, max_tokens, VISION)


def texts(max_tokens: int = 256) -> VisionTextEncoder:
    return VisionTextEncoder(tokenizer(), PREFIXES, max_tokens, VISION)


def found(encodings: Encodings) -> list[list[int]]:
    return [row.token_ids.tolist() for row in encodings.rows]


def test_a_passage_may_be_text_image_or_both() -> None:
    passages = [("q?", "some text"), ("q?", ""), ("q?", "some text")]
    rows = ranked(pairs(), passages, [None, image(1), image(3)])
    assert found(rows) == [
        ids("question:q? \n \n passage:some text"),
        ids(run(1) + " question:q? \n \n passage:"),
        ids(run(3) + " question:q? \n \n passage:some text"),
    ]
    assert [row.start for row in rows.rows if isinstance(row, ImageEncoding)] == [2, 2]


def test_an_image_stands_between_a_passage_s_prefix_and_its_text() -> None:
    rows = texts().encode(
        EmbedRequest(with_images(["", "some text", "plain"], [image(1), image(3), None]), "passage")
    )
    assert found(rows) == [
        ids("passage: " + run(1) + " "),
        ids("passage: " + run(3) + " some text"),
        ids("passage: plain"),
    ]
    assert [row.start for row in rows.rows[:2]] == [len("passage: ") + 2] * 2  # type: ignore[attr-defined]


def test_a_query_has_no_image_and_a_text_without_one_needs_its_type() -> None:
    with pytest.raises(ImageNotAllowed, match=r"input\[1\]\.image is not taken: a query has none"):
        texts().encode(EmbedRequest(with_images(["a", ""], [None, image(1)]), "query"))
    assert found(texts().encode(EmbedRequest(with_images([""], [image(1)]), None))) == [
        ids("passage: " + run(1) + " ")
    ]
    with pytest.raises(InputTypeRequired):
        texts().encode(EmbedRequest(with_images(["a", ""], [None, image(1)]), None))


def test_only_an_image_s_text_may_be_blank() -> None:
    with pytest.raises(BlankInput, match=r"passages\[1\]"):
        pairs().encode(RankRequest("q", with_images(["", " "], [image(1), None])))
    with pytest.raises(BlankInput, match="query"):
        pairs().encode(RankRequest(" ", with_images([""], [image(1)])))
    with pytest.raises(BlankInput, match=r"input\[1\]"):
        texts().encode(EmbedRequest(with_images(["", ""], [image(1), None]), "passage"))


def test_the_first_placeholder_of_a_text_alone_is_taken_away_as_upstream_does() -> None:
    rows = ranked(
        pairs(),
        [("a <image> b", "c <image>"), ("q", "x<image>y<image>"), ("q", "x<image>")],
        [None, None, image(1)],
    )
    assert found(rows) == [
        ids("question:a  b \n \n passage:c <image>"),
        ids("question:q \n \n passage:xy<image>"),
        ids(run(1) + " question:q \n \n passage:x<image>"),
    ]


def test_special_tokens_in_a_text_are_no_image() -> None:
    text = f"{CONTEXT}{BEFORE}{CONTEXT * 20}{AFTER}"
    rows = ranked(pairs(), [("q", text), (text, text)], [None, image(1)], "END").rows
    laid = image_inputs(rows, "left", (2, max(map(len, rows))), VISION)["image_index"]
    assert laid[0].tolist() == [0] * laid.shape[1]
    seen = np.flatnonzero(laid[1])
    start = laid.shape[1] - len(rows[1]) + 2
    assert seen.tolist() == list(range(start, start + TOKENS))


@pytest.mark.parametrize("side", ["END", "START"])
def test_texts_are_cut_and_images_never(side: str) -> None:
    whole = run(3) + " question:why? \n \n passage:" + "0123456789"
    encoder = pairs(len(ids(whole)) - 4)
    rows = ranked(encoder, [("why?", "0123456789")], [image(3)], side)  # type: ignore[arg-type]
    kept = "012345" if side == "END" else "456789"
    assert found(rows) == [ids(whole.replace("0123456789", kept))]
    assert rows.truncated == 1
    # With no token of the passage left, the query goes, and the image stays to the end.
    least = ranked(pairs(3 * TOKENS + 3), [("why?", "01")], [image(3)], side)  # type: ignore[arg-type]
    assert found(least) == [ids(run(3))]


def test_what_does_not_fit_is_said_with_its_whole_length() -> None:
    whole = len(ids(run(3) + " question:q \n \n passage:text"))
    with pytest.raises(InputTooLong, match=f"Input length {whole} exceeds .* {whole - 1}"):
        ranked(pairs(whole - 1), [("q", "text")], [image(3)])
    for most in (29, 30):  # whether or not the image alone fits
        with pytest.raises(InputTooLong, match=f"Input length {whole} exceeds .* {most}"):
            ranked(pairs(most), [("q", "text")], [image(3)], "NONE")
    with pytest.raises(InputTooLong, match=f"Input length {whole} exceeds .* 29"):
        ranked(pairs(29), [("q", "text")], [image(3)], "END")
    with pytest.raises(InputTooLong):
        ranked(pairs(), [("q", "text")], [image(3)], limits=TokenLimits(pair=40))
    assert ranked(pairs(whole), [("q", "text")], [image(3)]).truncated == 0
    with pytest.raises(InputTooLong):
        texts(30).encode(EmbedRequest(with_images(["text"], [image(3)]), "passage"))


def test_without_images_the_rows_are_the_text_model_s() -> None:
    plain = PairEncoder(tokenizer(), TEMPLATE, 256).encode(
        RankRequest("q", ["one", "two"], limits=NO_LIMITS)
    )
    assert found(ranked(pairs(), [("q", "one"), ("q", "two")], [None, None])) == found(plain)


def test_rows_of_one_text_and_two_images_are_two_rows() -> None:
    rows = ranked(pairs(), [("q", "")] * 3, [image(1), image(1, "b"), image(1)]).rows
    assert rows[0].key == rows[2].key != rows[1].key


@pytest.mark.parametrize("side", ["left", "right"])
def test_embeddings_are_laid_out_once_for_each_image(side: str) -> None:
    passages = [("q", "plain text"), ("q", ""), ("q", "t"), ("q", "")]
    images = [None, image(1), image(3, "b"), image(1)]
    rows = ranked(pairs(), passages, images).rows
    shape = (5, max(map(len, rows)) + 2)
    laid = image_inputs(rows, side, shape, VISION)  # type: ignore[arg-type]
    index, embeds = laid["image_index"], laid["image_embeds"]
    assert embeds.shape == (4, TOKENS, 64)
    flat = embeds.reshape(-1, 64)
    for row, one, places in zip(rows, images, index, strict=False):
        where = np.flatnonzero(places)
        if one is None:
            assert not len(where)
            continue
        first = 2 + (shape[1] - len(row) if side == "left" else 0)
        assert where.tolist() == list(range(first, first + one.tiles * TOKENS))
        assert np.array_equal(flat[places[where] - 1], one.embeds.reshape(-1, 64))


def test_texts_alone_bring_no_tile() -> None:
    rows = ranked(pairs(), [("q", "text")], [None]).rows
    laid = image_inputs(rows, "left", (2, 40), VISION)
    assert laid["image_embeds"].shape == (0, TOKENS, 64)
    assert not laid["image_index"].any()


def test_an_image_s_tokens_count_as_its_own_and_not_as_its_text_s() -> None:
    words = ["text" * 25, "word" * 25]
    plain = RankRequest("why", words)
    seen = RankRequest("why", with_images(words, [image(3), image(1)]))
    after_texts, after_images = (TokenizerPool(pairs(), 256) for _ in range(2))
    with closing(after_texts), closing(after_images):
        after_texts.encode(plain, unchecked)
        after_images.encode(seen, unchecked)
        # The two tokens around an image and the blank behind it are all that a text gains.
        known = after_texts.estimate(plain)
        assert known < after_images.estimate(plain) <= known + 2 * 4
        # Estimates are cut to whole tokens.
        assert abs(after_texts.estimate(seen) - known - 4 * TOKENS) <= 1
        after_texts.encode(RankRequest("", with_images([""], [image(3)]), blanks=True), unchecked)
        assert after_texts.estimate(plain) == known
