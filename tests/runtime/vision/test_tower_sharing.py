"""Images that several requests bring, and what cannot be in time."""

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from PIL import Image

from runtime.errors import (
    EngineError,
    InvalidImage,
    Overloaded,
    TooLate,
)
from runtime.requests import images_of
from runtime.throughput import Throughput
from runtime.vision.decoding import ImageFile
from runtime.vision.tower import Tower
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
from tests.tiny_vision import png
from tests.waiting import wait_until


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
        others = [asyncio.create_task(entered(seeing, png(100 + i, 100), None)) for i in range(8)]
        await asyncio.to_thread(held.acquire)
        async with seeing.embedded_async(seeing_request(ONE)):
            assert not any(other.done() for other in others)
        free.set()
        await asyncio.gather(*others)

    try:
        asyncio.run(main())
    finally:
        free.set()
