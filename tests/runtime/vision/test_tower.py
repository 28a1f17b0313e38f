"""The tower's scheduler, its cache and its room, over an engine that computes means."""

import asyncio
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from runtime.errors import (
    DeadlineExceeded,
    EngineError,
    ImageTooLarge,
    InvalidImage,
    ModelClosed,
    Overloaded,
    TextPlace,
    TooLate,
    TooManyTiles,
)
from runtime.requests import Passage, RankRequest, images_of
from runtime.shapes import Shape, ShapeRange
from runtime.throughput import Throughput
from runtime.vision.decoding import ImageFile, open_image
from runtime.vision.limits import ImageLimits, VisionLimits
from runtime.vision.tiling import cut, pixel_values
from runtime.vision.tower import Tower
from tests.tiny_vision import TOKENS, png
from tests.vision_rules import TINY, VISION
from tests.waiting import wait_until

ONE, THREE, FIVE = png(90, 90), png(200, 100), png(150, 150)
Make = Callable[..., Tower]


class Engine:
    """Each embedding is the mean of the tile's pixels; `calls` are the tiles of each call."""

    name, version, device, lanes = "mean", "", "cpu", 1
    shapes: tuple[ShapeRange, ...] = ()
    input_names: Sequence[str] = ["pixel_values"]
    output_names: Sequence[str] = ["image_embeds"]

    def __init__(self) -> None:
        self.calls: list[int] = []
        self.closed = 0
        self.tokens = TOKENS
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()

    def shape_for(self, rows: int, tokens: int) -> Shape:
        return self.shapes[0].padded(rows, tokens) if self.shapes else (rows, tokens)

    def run(self, inputs: dict[str, np.ndarray]) -> dict[str, Any]:
        self.entered.set()
        self.gate.wait()
        pixels = inputs["pixel_values"]
        self.calls.append(len(pixels))
        means = pixels.mean(axis=(1, 2, 3))[:, None, None]
        return {"image_embeds": np.broadcast_to(means, (len(pixels), self.tokens, 64))}

    @contextmanager
    def held(self) -> Iterator[None]:
        """Calls wait until the block ends, or until the gate is set in it."""
        self.gate.clear()
        try:
            yield
        finally:
            self.gate.set()

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def tower(engine: Engine) -> Iterator[Make]:
    with ExitStack() as stack:

        def make(**limits: Any) -> Tower:
            made = Tower(engine, VISION, replace(VisionLimits(call_tiles=8), **limits))  # type: ignore[arg-type]
            stack.enter_context(closing(made))
            return made

        yield make
        engine.gate.set()


def seeing_request(*images: bytes | None, deadline: float | None = None) -> RankRequest:
    passages = ["text" if image is None else Passage(image=image) for image in images]
    return RankRequest("query", passages, deadline=deadline)


def embed(tower: Tower, *images: bytes | None, deadline: float | None = None) -> list[Any]:
    with tower.embedded(seeing_request(*images, deadline=deadline)) as seen:
        return images_of(seen)


def mean(data: bytes) -> np.ndarray:
    tiles = pixel_values(cut(open_image(data, TextPlace("")).decode(), TINY))
    return tiles.mean(axis=(1, 2, 3))


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
        asyncio.run(_enter(seeing, b"no image", None))
    with pytest.raises(DeadlineExceeded):
        asyncio.run(_enter(seeing, FIVE, 0.0))
    assert seeing.idle()


async def _enter(tower: Tower, image: bytes, deadline: float | None) -> None:
    async with tower.embedded_async(seeing_request(image, deadline=deadline)):
        pass


def test_a_cancelled_task_gives_its_room_back(tower: Make, engine: Engine) -> None:
    seeing = tower()
    engine.gate.clear()

    async def cancelled() -> None:
        task = asyncio.create_task(_enter(seeing, ONE, None))
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
        asyncio.run(_enter(seeing, ONE, None))


def test_images_that_arrive_together_are_computed_once(tower: Make, engine: Engine) -> None:
    seeing = tower()
    with ThreadPoolExecutor(3) as callers, engine.held():
        found = [callers.submit(embed, seeing, THREE, ONE)]
        assert engine.entered.wait(30)
        found += [callers.submit(embed, seeing, *images) for images in ((ONE, THREE), (ONE, FIVE))]
        wait_until(lambda: seeing._held == (3 + 1) + (1 + 3) + (1 + 5))
        engine.gate.set()
        first, second, third = (one.result(30) for one in found)
    assert first[0] is second[1]
    assert first[1] is second[0] is third[0]
    assert sum(engine.calls) == 3 + 1 + 5


def test_who_waits_for_a_request_that_fails_computes_for_itself(
    tower: Make, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeing = tower()
    run, failures = engine.run, iter([EngineError("once")])

    def fail_once(inputs: dict[str, np.ndarray]) -> dict[str, Any]:
        found = run(inputs)
        if error := next(failures, None):
            raise error
        return found

    monkeypatch.setattr(engine, "run", fail_once)
    with ThreadPoolExecutor(2) as callers, engine.held():
        first = callers.submit(embed, seeing, ONE)
        assert engine.entered.wait(30)
        second = callers.submit(embed, seeing, ONE)
        wait_until(lambda: seeing._held == 2)
        engine.gate.set()
        with pytest.raises(EngineError, match="once"):
            first.result(30)
        (image,) = second.result(30)
    np.testing.assert_allclose(image.embeds[:, 0, 0], mean(ONE), atol=1e-6)


async def asked(seeing: Tower) -> list[Any]:
    async with seeing.embedded_async(seeing_request(ONE)) as seen:
        return images_of(seen)


def test_on_an_event_loop_a_cancelled_waiter_cancels_nobody(tower: Make, engine: Engine) -> None:
    seeing = tower()
    engine.gate.clear()

    async def main() -> Any:
        first = asyncio.create_task(asked(seeing))
        await asyncio.to_thread(engine.entered.wait, 30)
        waiters = [asyncio.create_task(asked(seeing)) for _ in range(2)]
        await asyncio.to_thread(wait_until, lambda: seeing._held == 3)
        waiters[0].cancel()
        await asyncio.wait([waiters[0]])
        engine.gate.set()
        return await first, await waiters[1]

    (ours,), (theirs,) = asyncio.run(main())
    assert ours is theirs
    assert sum(engine.calls) == 1


def test_on_an_event_loop_the_first_one_may_be_cancelled(tower: Make, engine: Engine) -> None:
    seeing = tower()
    engine.gate.clear()

    async def main() -> Any:
        first = asyncio.create_task(asked(seeing))
        await asyncio.to_thread(engine.entered.wait, 30)
        second = asyncio.create_task(asked(seeing))
        await asyncio.to_thread(wait_until, lambda: seeing._held == 2)
        first.cancel()
        await asyncio.wait([first])
        engine.gate.set()
        return await second

    (image,) = asyncio.run(main())
    np.testing.assert_allclose(image.embeds[:, 0, 0], mean(ONE), atol=1e-6)


def test_no_pixels_are_kept_but_those_of_tiles(
    tower: Make, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode, pictures = ImageFile.decode, []

    def remembered(picture: ImageFile) -> Any:
        pictures.append(picture._opened)
        return decode(picture)

    monkeypatch.setattr(ImageFile, "decode", remembered)
    seeing = tower()
    with ThreadPoolExecutor(1) as callers, engine.held():
        first = callers.submit(embed, seeing, THREE, ONE)
        # Both are decoded, the call that waits and the queue have their tiles.
        wait_until(lambda: engine.entered.is_set() and len(pictures) == 2)
        wait_until(lambda: not any(map(has_pixels, pictures)))
        engine.gate.set()
        first.result(30)


def has_pixels(picture: Image.Image) -> bool:
    try:
        picture.getpixel((0, 0))
    except ValueError:  # closed
        return False
    return True


def test_an_image_is_given_away_as_soon_as_it_is_computed(tower: Make, engine: Engine) -> None:
    seeing = tower(call_tiles=1)
    calls = threading.Semaphore(0)
    engine.gate.set()
    run = engine.run

    def one_by_one(inputs: dict[str, np.ndarray]) -> dict[str, Any]:
        engine.entered.set()
        assert calls.acquire(timeout=30)
        return run(inputs)

    engine.run = one_by_one  # type: ignore[method-assign]
    with ThreadPoolExecutor(2) as callers:
        first = callers.submit(embed, seeing, ONE, FIVE)
        assert engine.entered.wait(30)
        second = callers.submit(embed, seeing, ONE)
        wait_until(lambda: seeing._held == 1 + 5 + 1)
        calls.release()
        (shared,) = second.result(30)  # while the first one still waits for its other image
        assert not first.done()
        calls.release(5)
        assert first.result(30)[0] is shared


@pytest.fixture
def ten_seconds_a_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    def known(_: Throughput, tokens: int, *_args: Any, **_named: Any) -> float:
        return 10.0 * tokens

    monkeypatch.setattr(Throughput, "predicted_s", known)


@pytest.mark.usefixtures("ten_seconds_a_tile")
def test_what_cannot_be_in_time_is_refused_with_its_seconds_before_it_is_decoded(
    tower: Make, engine: Engine
) -> None:
    seeing = tower()
    damaged = THREE[:-200]  # its header is whole
    request = seeing_request(damaged, ONE, deadline=time.monotonic() + 50)
    told = (
        "the 4 tiles of these images would take 40 s alone and the text model another 12 s, longer "
        "than the request's deadline; send fewer or smaller images"
    )
    with pytest.raises(TooLate, match=told), seeing.embedded(request, lambda tiles: 3.0 * tiles):
        pass

    async def main() -> None:
        async with seeing.embedded_async(request, lambda tiles: 3.0 * tiles):
            pass

    with pytest.raises(TooLate, match=told):
        asyncio.run(main())
    assert seeing.idle()
    assert engine.calls == []
    with pytest.raises(InvalidImage):  # where there is time, it is looked at
        embed(seeing, damaged, ONE, deadline=time.monotonic() + 500)


def test_the_text_model_s_seconds_are_left_to_it(tower: Make) -> None:
    request = seeing_request(ONE, deadline=time.monotonic() + 50)
    with (
        pytest.raises(TooLate, match="the text model another 60 s"),
        tower().embedded(request, lambda _: 60.0),
    ):
        pass


def test_who_waits_for_others_is_refused_as_they_would_be(
    tower: Make, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeing = tower()
    with ThreadPoolExecutor(1) as callers, engine.held():
        first = callers.submit(embed, seeing, FIVE)
        assert engine.entered.wait(30)
        with monkeypatch.context() as patch:
            patch.setattr(Throughput, "predicted_s", lambda _, tokens, *_a, **_k: 10.0 * tokens)
            with pytest.raises(Overloaded, match="would take 50 s, the requests before it"):
                embed(seeing, FIVE, deadline=time.monotonic() + 40)
        engine.gate.set()
        first.result(30)


def test_known_images_do_not_wait_until_others_are_decoded(
    tower: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    seeing = tower()
    embed(seeing, ONE)
    decode, held, free = ImageFile.decode, threading.Semaphore(0), threading.Event()

    def slow(picture: ImageFile) -> Any:
        held.release()
        assert free.wait(30)
        return decode(picture)

    monkeypatch.setattr(ImageFile, "decode", slow)

    async def main() -> None:
        others = [asyncio.create_task(_enter(seeing, png(100 + i, 100), None)) for i in range(8)]
        await asyncio.to_thread(held.acquire)
        async with seeing.embedded_async(seeing_request(ONE)):
            assert not any(other.done() for other in others)
        free.set()
        await asyncio.gather(*others)

    try:
        asyncio.run(main())
    finally:
        free.set()
