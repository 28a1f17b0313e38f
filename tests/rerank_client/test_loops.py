"""One asynchronous client in many event loops: nothing is lost, nothing is left open."""

import asyncio
import gc
import os
import random
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest

from rerank_client import AsyncRerankClient, RerankError, RerankResult
from rerank_client.connections import MAX_IDLE
from rerank_client.loops import MAX_LOOPS
from tests.rerank_client.scripted_server import Hang, Say, ScriptedServer, ranking
from tests.waiting import wait_until

QUERY = "which one?"
DOCUMENTS = ["first", "second", "third"]
GOOD = ranking([0.45, 0.85, -0.12])
BEST_FIRST = [1, 0, 2]


async def no_pause(_: float) -> None:
    pass


@pytest.fixture(autouse=True)
def _everything_is_closed() -> Iterator[None]:
    """Open connections warn when they are collected, and a warning is an error."""
    yield
    gc.collect()


@pytest.fixture
def client(server: ScriptedServer) -> Iterator[AsyncRerankClient]:
    server.script = [GOOD]
    client = AsyncRerankClient(server.url, sleep=no_pause)
    yield client
    asyncio.run(client.aclose())


def ask(client: AsyncRerankClient) -> Coroutine[Any, Any, RerankResult]:
    return client.rerank(QUERY, DOCUMENTS)


def run_and_only_close(coroutine: Coroutine[Any, Any, RerankResult]) -> RerankResult:
    """Like code that never calls shutdown_asyncgens."""
    loop = asyncio.new_event_loop()
    try:
        return loop.run_until_complete(coroutine)
    finally:
        loop.close()


Run = Callable[[Coroutine[Any, Any, RerankResult]], RerankResult]


@pytest.mark.parametrize("run", [asyncio.run, run_and_only_close])
def test_one_loop_after_the_other(
    server: ScriptedServer, client: AsyncRerankClient, run: Run
) -> None:
    for _ in range(4):
        assert run(ask(client)).ranked_indices == BEST_FIRST
    assert len(server.requests) == server.connections == 4


def test_a_loop_keeps_its_connection(server: ScriptedServer, client: AsyncRerankClient) -> None:
    with asyncio.Runner() as one, asyncio.Runner() as other:
        for _ in range(3):
            for runner in (one, other):
                assert runner.run(ask(client)).ranked_indices == BEST_FIRST
    assert len(server.requests) == 6
    assert server.connections == 2


def test_connections_end_with_their_loop(server: ScriptedServer, client: AsyncRerankClient) -> None:
    loops = []

    async def noted() -> RerankResult:
        loops.append(weakref.ref(asyncio.get_running_loop()))
        return await ask(client)

    for _ in range(5):
        asyncio.run(noted())
    # The server sees the end of each: closing is not left to the garbage collector.
    wait_until(lambda: server.open_connections == 0)
    gc.collect()
    assert [loop() for loop in loops] == [None] * 5


def test_loops_that_were_only_closed_do_not_pile_up(
    server: ScriptedServer, client: AsyncRerankClient
) -> None:
    for _ in range(20):
        run_and_only_close(ask(client))
    wait_until(lambda: server.open_connections <= 1)


def test_threads_with_a_loop_each(server: ScriptedServer, client: AsyncRerankClient) -> None:
    together = threading.Barrier(8)

    async def several() -> list[list[int]]:
        together.wait()
        results = await asyncio.gather(*(ask(client) for _ in range(4)))
        return [result.ranked_indices for result in results]

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(lambda _: asyncio.run(several()), range(8)))
    assert found == [[BEST_FIRST] * 4] * 8
    assert len(server.requests) == 32
    wait_until(lambda: server.open_connections == 0)


def test_more_loops_than_are_remembered(server: ScriptedServer, client: AsyncRerankClient) -> None:
    loops = [asyncio.new_event_loop() for _ in range(MAX_LOOPS + 3)]
    try:
        for loop in loops:
            loop.run_until_complete(ask(client))
        wait_until(lambda: server.open_connections == MAX_LOOPS)
        # The first pool was closed; the loop gets another.
        assert loops[0].run_until_complete(ask(client)).ranked_indices == BEST_FIRST
    finally:
        for loop in loops:
            loop.close()


def test_keeping_the_order_works_in_every_loop(
    server: ScriptedServer, client: AsyncRerankClient
) -> None:
    for _ in range(3):
        kept = asyncio.run(client.rerank_or_keep_order(QUERY, DOCUMENTS))
        assert (kept.ranked_indices, kept.degraded) == (BEST_FIRST, False)


@pytest.mark.parametrize("shut_down", [True, False])
def test_closing_from_another_loop(
    server: ScriptedServer, client: AsyncRerankClient, shut_down: bool
) -> None:
    first = asyncio.new_event_loop()
    first.run_until_complete(ask(client))
    asyncio.run(client.aclose())
    wait_until(lambda: server.open_connections == 0)
    if shut_down:
        first.run_until_complete(first.shutdown_asyncgens())
    first.close()


def test_closing_while_another_loop_runs(server: ScriptedServer, client: AsyncRerankClient) -> None:
    asked, closed = threading.Event(), threading.Event()

    async def ask_and_stay() -> None:
        await ask(client)
        asked.set()
        while not closed.is_set():
            await asyncio.sleep(0.01)

    with ThreadPoolExecutor(1) as threads:
        running = threads.submit(asyncio.run, ask_and_stay())
        asked.wait()
        asyncio.run(client.aclose())
        wait_until(lambda: server.open_connections == 0)
        closed.set()
        running.result()


def test_a_call_that_runs_when_the_client_is_closed_is_an_error(
    server: ScriptedServer, client: AsyncRerankClient
) -> None:
    server.script = [Hang()]

    async def close_meanwhile() -> None:
        call = asyncio.create_task(ask(client))
        while not server.requests:
            await asyncio.sleep(0.01)
        await client.aclose()
        with pytest.raises(RerankError):
            await call

    asyncio.run(close_meanwhile())
    assert len(server.requests) == 1


def test_a_closed_client_says_so(client: AsyncRerankClient) -> None:
    asyncio.run(client.aclose())
    for call in (client.rerank, client.rerank_or_keep_order):
        with pytest.raises(RuntimeError, match="this client is closed"):
            asyncio.run(call(QUERY, DOCUMENTS))
    asyncio.run(client.aclose())


def test_a_client_that_nobody_closes_ends_with_its_loop(server: ScriptedServer) -> None:
    server.script = [GOOD]

    async def forget() -> None:
        await ask(AsyncRerankClient(server.url))

    asyncio.run(forget())
    wait_until(lambda: server.open_connections == 0)


def test_cancelling_passes_through(server: ScriptedServer, client: AsyncRerankClient) -> None:
    server.script = [Hang(), GOOD]

    async def cancel() -> None:
        call = asyncio.create_task(client.rerank_or_keep_order(QUERY, DOCUMENTS))
        while not server.requests:
            await asyncio.sleep(0.01)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        # The client still works.
        assert (await ask(client)).ranked_indices == BEST_FIRST

    asyncio.run(cancel())


def test_a_storm_of_cancelled_calls_leaves_nothing(
    server: ScriptedServer, client: AsyncRerankClient
) -> None:
    """A call that ends at any of its waits keeps no connection, and the next one gets its own."""

    async def storm() -> None:
        for turns in range(400):
            calls = [asyncio.create_task(ask(client)) for _ in range(2)]
            for _ in range(turns % 40):
                await asyncio.sleep(0)
            for call in calls:
                call.cancel()
            await asyncio.gather(*calls, return_exceptions=True)
        for _ in range(100):
            with suppress(TimeoutError):
                async with asyncio.timeout(random.random() * 0.004):
                    await ask(client)
        assert (await ask(client)).ranked_indices == BEST_FIRST
        # At most as many stay open as were in use at once.
        while server.open_connections > 2:
            await asyncio.sleep(0.01)

    asyncio.run(storm())


def test_few_connections_stay_open(server: ScriptedServer, client: AsyncRerankClient) -> None:
    async def many() -> None:
        await asyncio.gather(*(ask(client) for _ in range(MAX_IDLE + 8)))
        assert server.connections == MAX_IDLE + 8
        while server.open_connections > MAX_IDLE:
            await asyncio.sleep(0.01)

    asyncio.run(many())


def test_a_forked_process_closes_nothing_of_its_parents(
    server: ScriptedServer, client: AsyncRerankClient
) -> None:
    with asyncio.Runner() as runner:
        runner.run(ask(client))
        child = os.fork()
        if child == 0:
            good = 0
            try:

                async def ask_and_close() -> RerankResult:
                    async with client:
                        return await ask(client)

                good += asyncio.run(ask_and_close()).ranked_indices == BEST_FIRST
            finally:
                os._exit(good)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 1
        runner.run(ask(client))
    assert [request.connection for request in server.requests] == [0, 1, 0]


def test_a_timeout_of_the_callers_passes_through(
    server: ScriptedServer, client: AsyncRerankClient
) -> None:
    server.script = [Hang()]

    async def wait_shortly() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.rerank_or_keep_order(QUERY, DOCUMENTS), 0.1)

    asyncio.run(wait_shortly())


def test_an_error_in_one_loop_leaves_the_others(
    server: ScriptedServer, client: AsyncRerankClient
) -> None:
    server.script = [Say(400, b"{}"), GOOD]
    with pytest.raises(RerankError):
        asyncio.run(ask(client))
    assert asyncio.run(ask(client)).ranked_indices == BEST_FIRST
