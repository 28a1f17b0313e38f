"""Ranking and embedding texts, images and both, through the façade, beside the witness."""

import asyncio
import json
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from exporter.witness.nemotron_vl import VisionEmbedder as EmbedWitness
from exporter.witness.nemotron_vl import VisionReranker as RankWitness
from runtime.embedder import Embedder
from runtime.errors import (
    DeadlineExceeded,
    ImageNotAllowed,
    ImageTooLarge,
    InputTooLong,
    InputTypeRequired,
    InvalidImage,
    ModelClosed,
    TooManyTiles,
)
from runtime.opening import open_model
from runtime.ranker import Ranker
from runtime.requests import EmbedRequest, Passage, RankRequest
from runtime.vision.limits import ImageLimits, VisionLimits
from tests.tiny_vision import TOKENS, png

TOLERANCE = 2e-5
ONE, THREE, FIVE = png(90, 90), png(200, 100), png(150, 150)
PASSAGES: Sequence[str | Passage] = (
    "plain text between images",
    Passage(image=ONE),
    Passage("a caption", THREE),
    "another text, a little longer than the one before",
    Passage("", FIVE),
    Passage("a caption", ONE),
)


@pytest.fixture
def ranker(vision_artifact: Path) -> Iterator[Ranker]:
    with closing(cast(Ranker, open_model(vision_artifact, "rank"))) as model:
        yield model


@pytest.fixture
def embedder(vision_embed_artifact: Path) -> Iterator[Embedder]:
    with closing(cast(Embedder, open_model(vision_embed_artifact, "embed"))) as model:
        yield model


def loaded(kind: Any, folder: Path, *more: Any) -> Any:
    config = json.loads((folder / "config.json").read_bytes())
    return kind(folder, config, *more)


@pytest.fixture(scope="module")
def wanted(vision_checkpoint: Path) -> np.ndarray:
    """The witness's logits of PASSAGES."""
    witness = loaded(RankWitness, vision_checkpoint)
    return np.concatenate([_score(witness, passage) for passage in PASSAGES])


def _score(witness: RankWitness, passage: str | Passage) -> np.ndarray:
    if isinstance(passage, str):
        return witness.score("why?", passage)[1]
    assert passage.image is not None
    return witness.score_image("why?", passage.text, witness.see(passage.image))[1]


def test_texts_images_and_both_are_ranked_in_one_request(
    ranker: Ranker, wanted: np.ndarray
) -> None:
    found = ranker.rank(RankRequest("why?", PASSAGES))
    np.testing.assert_allclose(found.logits, wanted, atol=TOLERANCE, rtol=0)
    assert found.token_counts[1] - found.token_counts[5] == -len("a caption")
    assert found.timing.image_ms > 0
    assert found.timing.total_ms >= found.timing.image_ms


@pytest.mark.parametrize("seed", range(3))
def test_the_order_of_passages_changes_nothing(
    seed: int, ranker: Ranker, wanted: np.ndarray
) -> None:
    order = np.random.default_rng(seed).permutation(len(PASSAGES))
    found = ranker.rank(RankRequest("why?", [PASSAGES[place] for place in order]))
    np.testing.assert_allclose(found.logits, wanted[order], atol=TOLERANCE, rtol=0)


def test_several_requests_at_a_time_do_not_mix_their_images(
    ranker: Ranker, wanted: np.ndarray
) -> None:
    async def together() -> list[Any]:
        return await asyncio.gather(
            *(ranker.rank_async(RankRequest("why?", [one])) for one in PASSAGES)
        )

    found = np.concatenate([one.logits for one in asyncio.run(together())])
    np.testing.assert_allclose(found, wanted, atol=TOLERANCE, rtol=0)
    assert ranker.idle()


def test_texts_alone_run_the_text_graph_alone(ranker: Ranker) -> None:
    found = ranker.rank(RankRequest("why?", ["one", "two"]))
    asyncio.run(ranker.rank_async(RankRequest("why?", ["one"])))
    assert ranker.tower.scheduler.stats().execution_count == 0
    assert found.timing.image_ms < found.timing.total_ms
    assert ranker.tower.cache.stats().misses == 0


def test_a_page_that_is_ranked_again_does_not_go_through_the_tower(ranker: Ranker) -> None:
    ranker.rank(RankRequest("why?", PASSAGES))
    before, tiles = ranker.tower.cache.stats(), ranker.tower.scheduler.stats().inference_count
    ranker.rank(RankRequest("another query", PASSAGES))
    after = ranker.tower.cache.stats()
    assert tiles == ranker.tower.scheduler.stats().inference_count == 9
    assert (after.hits - before.hits, after.misses - before.misses) == (3, 0)


def test_a_text_is_cut_and_its_image_is_not(ranker: Ranker) -> None:
    long = Passage("word " * 200, FIVE)
    with pytest.raises(InputTooLong):
        ranker.rank(RankRequest("why?", [long]))
    found = ranker.rank(RankRequest("why?", [long], truncate="END"))
    assert (found.truncated, found.token_counts.tolist()) == (1, [256])
    other = ranker.rank(
        RankRequest("why?", [Passage("word " * 200, png(150, 150, 1))], truncate="END")
    )
    assert abs(found.logits[0] - other.logits[0]) > 1e-3


def test_special_tokens_of_a_text_are_no_image(ranker: Ranker) -> None:
    text = "<img>" + "<IMG_CONTEXT>" * TOKENS + "</img>"
    found = ranker.rank(RankRequest("why?", [text, Passage(text, ONE), Passage(image=ONE)]))
    alone = ranker.rank(RankRequest("why?", [text]))
    assert abs(found.logits[0] - alone.logits[0]) < TOLERANCE
    assert len(set(found.logits.tolist())) == 3


def test_bad_images_are_named(vision_artifact: Path) -> None:
    limits = VisionLimits(image=ImageLimits(bytes=1 << 20, pixels=30_000), request_tiles=4)
    with closing(cast(Ranker, open_model(vision_artifact, vision=limits))) as model:
        for passages, error, told in (
            (["a", Passage(image=b"no image")], InvalidImage, r"passages\[1\]\.image"),
            ([Passage(image=b"")], InvalidImage, r"passages\[0\]\.image"),
            ([Passage(image=png(200, 200))], ImageTooLarge, "200 × 200 pixels"),
            ([Passage(image=THREE), Passage(image=FIVE)], TooManyTiles, "8 tiles"),
        ):
            with pytest.raises(error, match=told):
                model.rank(RankRequest("why?", passages))
            with pytest.raises(error, match=told):
                asyncio.run(model.rank_async(RankRequest("why?", passages)))
        assert model.idle()


def test_a_passed_deadline_ends_a_request_with_images(ranker: Ranker) -> None:
    with pytest.raises(DeadlineExceeded):
        ranker.rank(RankRequest("why?", PASSAGES, deadline=time.monotonic()))
    with pytest.raises(DeadlineExceeded):
        asyncio.run(ranker.rank_async(RankRequest("why?", PASSAGES, deadline=time.monotonic())))
    assert ranker.idle()


def test_warming_up_reproduces_what_was_recorded(ranker: Ranker) -> None:
    ranker.warm_up()
    assert ranker.info.images
    assert ranker.fault(60.0) is None


def test_limits_of_callers_do_not_bound_the_model_s_own_images(vision_artifact: Path) -> None:
    limits = VisionLimits(image=ImageLimits(bytes=100, pixels=100), request_tiles=1)
    with closing(cast(Ranker, open_model(vision_artifact, vision=limits))) as model:
        model.warm_up()
        with pytest.raises(ImageTooLarge, match="wanted at most 100 bytes"):
            model.rank(RankRequest("why?", [Passage(image=ONE)]))


def test_a_closed_model_takes_no_images(ranker: Ranker) -> None:
    ranker.close()
    with pytest.raises(ModelClosed):
        ranker.rank(RankRequest("why?", PASSAGES))


def test_images_and_texts_are_embedded(embedder: Embedder, vision_embed_checkpoint: Path) -> None:
    witness = loaded(EmbedWitness, vision_embed_checkpoint, {})
    texts: list[str | Passage] = ["plain", Passage(image=THREE), Passage("a caption", ONE)]
    rows = [
        witness.embed("plain", "passage")[1],
        witness.embed_image("", witness.see(THREE))[1],
        witness.embed_image("a caption", witness.see(ONE))[1],
    ]
    found = embedder.embed(EmbedRequest(texts, "passage"))
    np.testing.assert_allclose(found.vectors, np.stack(rows), atol=TOLERANCE, rtol=0)
    again = asyncio.run(embedder.embed_async(EmbedRequest(texts[1:], None)))
    np.testing.assert_allclose(again.vectors, np.stack(rows[1:]), atol=TOLERANCE, rtol=0)
    query = embedder.embed(EmbedRequest(["plain"], "query")).vectors
    np.testing.assert_allclose(query[0], witness.embed("plain", "query")[1], atol=TOLERANCE, rtol=0)


def test_a_query_has_no_image(embedder: Embedder) -> None:
    with pytest.raises(ImageNotAllowed, match=r"input\[0\]"):
        embedder.embed(EmbedRequest([Passage(image=ONE)], "query"))
    with pytest.raises(InputTypeRequired):
        embedder.embed(EmbedRequest([Passage(image=ONE), "text"]))
