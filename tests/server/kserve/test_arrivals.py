"""Messages arrive a few at a time; slow ones give way to those that wait."""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from server.errors import BodyTooSlow, ClientDisconnected
from server.kserve import arrivals
from server.kserve.arrivals import Arrivals

PLACES = arrivals._MOST_ARRIVING
NEVER = math.inf


class Caller:
    """A call whose message comes when the test says so."""

    def __init__(self) -> None:
        self.message: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self.read_begun = False

    async def read(self) -> object:
        self.read_begun = True
        return await self.message


async def slices() -> None:
    """Until everything that can go on has gone on."""
    for _ in range(200):
        await asyncio.sleep(0)


def in_loop(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(test())  # type: ignore[arg-type]


def begin(reading: Arrivals, count: int) -> tuple[list[Caller], list["asyncio.Task[bytes]"]]:
    callers = [Caller() for _ in range(count)]
    deadline = time.monotonic() + 3600
    given: list[Any] = list(callers)
    return callers, [asyncio.create_task(reading.read(one, deadline)) for one in given]


def test_others_wait_for_a_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "_SLOW_S", NEVER)

    async def test() -> None:
        callers, tasks = begin(Arrivals(), 3 * PLACES)
        for done in range(0, 3 * PLACES, PLACES):
            await slices()
            assert [one.read_begun for one in callers].count(True) == done + PLACES
            for one in callers[done : done + PLACES]:
                one.message.set_result(b"message")
        assert await asyncio.gather(*tasks) == [b"message"] * 3 * PLACES

    in_loop(test)


def test_slow_ones_give_way_to_as_many_as_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arrivals, "_SLOW_S", 0.0)

    async def test() -> None:
        reading = Arrivals()
        slow, held = begin(reading, PLACES)
        await slices()
        assert all(one.read_begun for one in slow)
        assert not any(task.done() for task in held)  # nobody waits
        small, asked = begin(reading, 2)
        await asyncio.wait(held[:2])
        await slices()
        for task in held[:2]:
            assert isinstance(task.exception(), BodyTooSlow)
        assert not any(task.done() for task in held[2:])
        for one in small:
            one.message.set_result(b"small")
        assert await asyncio.gather(*asked) == [b"small"] * 2
        for one in slow[2:]:
            one.message.set_result(b"slow")
        assert await asyncio.gather(*held[2:]) == [b"slow"] * (PLACES - 2)

    in_loop(test)


def test_a_slow_message_outlives_bursts_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """It has a second in which others wait all the time, however long it has been coming."""
    monkeypatch.setattr(arrivals, "_SLOW_S", 1000.0)

    async def test() -> None:
        loop = asyncio.get_running_loop()
        passed, real = 0.0, loop.time
        monkeypatch.setattr(loop, "time", lambda: real() + passed)
        reading = Arrivals()
        slow, held = begin(reading, PLACES - 1)
        await slices()
        for _ in range(5):
            passed += 600
            burst, asked = begin(reading, 3)
            await slices()
            assert [one.read_begun for one in burst] == [True, False, False]
            for one in burst:
                one.message.set_result(b"quick")
            assert await asyncio.gather(*asked) == [b"quick"] * 3
            await slices()
            assert reading._timer is None
        passed -= 3000  # so that no deadline is near
        assert not any(task.done() for task in held)
        waiting, asked = begin(reading, 2)  # one of which waits, and goes on waiting
        await slices()
        passed += 1001
        await slices()
        assert [task.done() for task in held] == [True] + [False] * (PLACES - 2)
        assert isinstance(held[0].exception(), BodyTooSlow)
        for one in (*waiting, *slow[1:]):
            one.message.set_result(b"")
        await asyncio.gather(*asked, *held[1:])

    in_loop(test)


def test_stalled_calls_do_not_keep_others_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """However many wait before one, they end one after the other."""
    monkeypatch.setattr(arrivals, "_SLOW_S", 0.0)

    async def test() -> None:
        reading = Arrivals()
        _, stalled = begin(reading, 5 * PLACES)
        (last,), (asked,) = begin(reading, 1)
        last.message.set_result(b"last")
        assert await asked == b"last"
        assert [task.done() for task in stalled].count(True) > 4 * PLACES
        for task in stalled:
            task.cancel()
        await asyncio.gather(*stalled, return_exceptions=True)

    in_loop(test)


def test_a_deadline_and_the_end_of_the_stream() -> None:
    async def test() -> None:
        reading = Arrivals()
        silent: Any = Caller()
        with pytest.raises(BodyTooSlow, match="did not arrive"):
            await reading.read(silent, time.monotonic() - 1)
        ended: Any = Caller()
        ended.message.set_result(object())
        with pytest.raises(ClientDisconnected):
            await reading.read(ended, time.monotonic() + 3600)
        callers, tasks = begin(reading, PLACES + 1)  # no place was lost
        for one in callers:
            one.message.set_result(b"")
        assert await asyncio.gather(*tasks) == [b""] * (PLACES + 1)

    in_loop(test)
