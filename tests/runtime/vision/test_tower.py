"""The tower's scheduler, its cache and its room, over an engine that computes means."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from runtime.errors import (
    DeadlineExceeded,
    EngineError,
    ImageTooLarge,
    InvalidImage,
    ModelClosed,
    Overloaded,
    TooManyTiles,
)
from runtime.requests import images_of
from runtime.shapes import ShapeRange
from runtime.vision.limits import ImageLimits
from tests.runtime.vision.towers import (
    FIVE,
    ONE,
    THREE,
    Engine,
    Make,
    embed,
    entered,
    mean,
    seeing_request,
)
from tests.tiny_vision import TOKENS, png
from tests.waiting import wait_until


def test_each_image_gets_its_own_tiles_in_order(tower: Make, engine: Engine) -> None:
    found = embed(tower(), THREE, None, ONE, FIVE)
    assert found[1] is None
    for image, data in zip((found[0], found[2], found[3]), (THREE, ONE, FIVE), strict=True):
        assert image.embeds.shape == (image.tiles, TOKENS, 64)
        np.testing.assert_allclose(image.embeds[:, 0, 0], mean(data), atol=1e-6)
    assert sum(engine.calls) == 9
    assert max(engine.calls) <= 8


def test_calls_have_a_budget_of_their_own(tower: Make, engine: Engine) -> None:
    embed(tower(call_tiles=2), THREE, FIVE)
    assert (sum(engine.calls), max(engine.calls)) == (8, 2)


def test_calls_keep_to_the_engine_s_shapes(tower: Make, engine: Engine) -> None:
    engine.shapes = (ShapeRange((2, 2, 3), (1, 1, 1)),)
    seeing = tower()
    found = embed(seeing, FIVE)
    assert sorted(engine.calls) == [2, 3]
    found += embed(seeing, ONE)  # a call of one tile is filled up to two
    assert engine.calls[2:] == [2]
    for image, data in zip(found, (FIVE, ONE), strict=True):
        assert image.tiles == len(mean(data))
        np.testing.assert_allclose(image.embeds[:, 0, 0], mean(data), atol=1e-6)


def test_an_image_that_was_seen_before_is_not_computed_again(tower: Make, engine: Engine) -> None:
    seeing = tower()
    first = embed(seeing, ONE, THREE, ONE)
    again = embed(seeing, THREE, ONE)
    assert sum(engine.calls) == 4
    assert first[0] is first[2] is again[1]
    stats = seeing.cache.stats()
    assert (stats.hits, stats.misses, stats.images) == (2, 2, 2)
    assert stats.bytes == 4 * TOKENS * 64 * 4


def test_the_cache_is_bounded_and_keeps_what_was_used_last(tower: Make, engine: Engine) -> None:
    tile = TOKENS * 64 * 4
    seeing = tower(cache_bytes=4 * tile)
    embed(seeing, ONE)
    embed(seeing, THREE)
    embed(seeing, ONE)  # used again, so that the other one goes
    embed(seeing, png(80, 80, 1))
    assert (seeing.cache.stats().images, seeing.cache.stats().bytes) == (2, 2 * tile)
    before = sum(engine.calls)
    embed(seeing, ONE)
    assert sum(engine.calls) == before
    embed(seeing, FIVE)  # larger than the whole cache, which stays as it is
    assert seeing.cache.stats().images == 2


def test_without_a_cache_nothing_is_kept(tower: Make, engine: Engine) -> None:
    seeing = tower(cache_bytes=0)
    embed(seeing, ONE)
    embed(seeing, ONE)
    assert engine.calls == [1, 1]


def test_a_request_s_tiles_are_bounded_before_anything_is_decoded(
    tower: Make, engine: Engine
) -> None:
    seeing = tower(request_tiles=7)
    with pytest.raises(TooManyTiles, match="images of 8 tiles in one request, wanted at most 7"):
        embed(seeing, THREE, FIVE)
    assert engine.calls == []
    assert seeing.idle()
    assert seeing.stats().misses == 0  # what is refused is not computed
    assert len(embed(seeing, THREE, THREE, THREE, THREE, ONE)) == 5  # once each


def test_bad_images_are_named(tower: Make) -> None:
    with pytest.raises(InvalidImage, match=r"passages\[1\]\.image"):
        embed(tower(), ONE, b"no image")
    with pytest.raises(ImageTooLarge, match=r"passages\[0\]\.image"):
        embed(tower(image=ImageLimits(pixels=100)), ONE)
    whole = png(300, 300)
    with pytest.raises(InvalidImage, match=r"passages\[1\]\.image"):
        embed(tower(), ONE, whole[: len(whole) // 2])


def test_after_a_refusal_there_is_room_again(tower: Make) -> None:
    seeing = tower(held_tiles=1)
    with pytest.raises(InvalidImage):
        embed(seeing, THREE[:200])
    assert seeing.idle()
    embed(seeing, THREE)


def test_tiles_are_held_until_the_request_is_answered(tower: Make) -> None:
    seeing = tower(held_tiles=4)
    with seeing.embedded(seeing_request(THREE)):
        assert not seeing.idle()
        embed(seeing, ONE)
        with pytest.raises(Overloaded, match=r"3 image tiles .* room for 4; this request brings 5"):
            embed(seeing, FIVE)
    assert seeing.idle()
    embed(seeing, FIVE)


def test_tiles_of_several_requests_share_calls(tower: Make, engine: Engine) -> None:
    seeing = tower()
    engine.gate.clear()
    with ThreadPoolExecutor() as threads:
        first = threads.submit(embed, seeing, ONE)
        engine.entered.wait()
        others = [threads.submit(embed, seeing, png(60 + i, 60)) for i in range(4)]
        wait_until(lambda: seeing.scheduler.queue_depth()[0] == 4)
        engine.gate.set()
        assert all(one.result() for one in [first, *others])
    assert engine.calls == [1, 4]


def test_for_an_event_loop_it_is_the_same(tower: Make, engine: Engine) -> None:
    seeing = tower()

    async def both() -> list[list[Any]]:
        async with (
            seeing.embedded_async(seeing_request(THREE)) as one,
            seeing.embedded_async(seeing_request(ONE, None)) as other,
        ):
            return [images_of(one), images_of(other)]

    (three,), (one, nothing) = asyncio.run(both())
    assert three is not None
    assert one is not None
    assert nothing is None
    np.testing.assert_allclose(three.embeds[:, 0, 0], mean(THREE), atol=1e-6)
    assert seeing.idle()
    with pytest.raises(InvalidImage):
        asyncio.run(entered(seeing, b"no image", None))
    with pytest.raises(DeadlineExceeded):
        asyncio.run(entered(seeing, FIVE, 0.0))
    assert seeing.idle()


def test_a_cancelled_task_gives_its_room_back(tower: Make, engine: Engine) -> None:
    seeing = tower()
    engine.gate.clear()

    async def cancelled() -> None:
        task = asyncio.create_task(entered(seeing, ONE, None))
        await asyncio.to_thread(engine.entered.wait)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(cancelled())
    engine.gate.set()
    wait_until(seeing.idle)


def test_a_passed_deadline_ends_it(tower: Make, engine: Engine) -> None:
    with pytest.raises(DeadlineExceeded):
        embed(tower(), ONE, deadline=0.0)
    assert engine.calls == []


def test_embeddings_of_another_shape_are_refused(tower: Make, engine: Engine) -> None:
    engine.tokens = 4
    with pytest.raises(EngineError, match=r"\[1, 4, 64\], wanted \[1, 9, 64\]"):
        embed(tower(), ONE)


def test_a_closed_tower_takes_nothing_and_closes_its_engine_once(
    tower: Make, engine: Engine
) -> None:
    seeing = tower()
    seeing.close()
    seeing.close()
    assert engine.closed == 1
    with pytest.raises(ModelClosed):
        embed(seeing, ONE)
    with pytest.raises(ModelClosed):
        asyncio.run(entered(seeing, ONE, None))
