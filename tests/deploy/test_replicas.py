"""Replicas behind a proxy, some of which end under load: every call of the client library gets an
answer."""

import asyncio
import contextlib
import operator
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from rerank_client import RerankClient
from tests.server.conftest import Server
from tests.server.figures import figures, outcomes
from tests.waiting import PATIENCE_S

DOCUMENTS = [f"passage {number} " * (1 + number % 7) for number in range(12)]
CALLERS = 8


class Proxy:
    """Passes each connection to the next replica that accepts it, like a service's address."""

    def __init__(self, ports: list[int]) -> None:
        self._ports = ports
        self._turn = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        started = asyncio.run_coroutine_threadsafe(self._start(), self._loop)
        self._server = started.result(PATIENCE_S)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _start(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._turn = (self._turn + 1) % len(self._ports)
        for port in self._ports[self._turn :] + self._ports[: self._turn]:
            with contextlib.suppress(OSError):
                inner, outer = await asyncio.open_connection("127.0.0.1", port)
                await asyncio.gather(_pass_on(reader, outer), _pass_on(inner, writer))
                return
        writer.close()

    def close(self) -> None:
        async def end() -> None:
            self._server.close()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(PATIENCE_S)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


async def _pass_on(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    try:
        while chunk := await source.read(65536):
            target.write(chunk)
            await target.drain()
    except OSError:
        pass
    finally:
        target.close()


@pytest.fixture
def replicas() -> Iterator[list[Server]]:
    with contextlib.ExitStack() as running:
        # Running connections get the time that they need.
        given = {"ENABLE_MOCK_INFERENCE": "1", "RERANK_DRAIN_TIMEOUT_S": "3600"}
        started = [running.enter_context(Server(given)) for _ in range(3)]
        yield [server.ready() for server in started]


@pytest.fixture
def proxy(replicas: list[Server]) -> Iterator[Proxy]:
    running = Proxy([server.port for server in replicas])
    yield running
    running.close()


def test_replicas_that_go_cost_no_caller_an_answer(replicas: list[Server], proxy: Proxy) -> None:
    """One is killed and one gets SIGTERM while all callers send requests; the third stays."""
    answers = [0] * CALLERS
    enough = threading.Event()

    def ask(number: int) -> None:
        with RerankClient(proxy.url, timeout_s=PATIENCE_S) as client:
            wanted = client.rerank(f"query {number}", DOCUMENTS).scores
            while not enough.is_set():
                # All replicas give the same scores.
                assert client.rerank(f"query {number}", DOCUMENTS).scores == wanted
                answers[number] += 1

    with ThreadPoolExecutor(CALLERS) as pool:
        callers = [pool.submit(ask, number) for number in range(CALLERS)]

        def each_has_more_answers() -> None:
            wanted = [count + 5 for count in answers]
            replicas[2].wait_until(
                lambda: all(map(operator.ge, answers, wanted)) or any(c.done() for c in callers)
            )

        try:
            each_has_more_answers()
            assert all(answered(server) for server in replicas)
            for server, fate, code in (
                (replicas[0], signal.SIGKILL, -signal.SIGKILL),
                # A running request is answered when there is time for it.
                (replicas[1], signal.SIGTERM, 0),
            ):
                server.signal(fate)
                assert server.ends() == code
                each_has_more_answers()
        finally:
            enough.set()
        for caller in callers:
            caller.result(PATIENCE_S)
    assert replicas[2].stop() == 0


def answered(server: Server) -> float:
    return outcomes(figures(server))["answered"]
