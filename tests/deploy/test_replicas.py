"""Two replicas behind a proxy, one of which goes under load: nobody who asks with the client
library goes without an answer."""

import asyncio
import contextlib
import signal
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rerank_client import RerankClient
from tests.server.conftest import Server

DOCUMENTS = [f"passage {number} " * (1 + number % 7) for number in range(12)]
CALLERS = 8
LOAD_S = 4.0


class Proxy:
    """Hands each connection to the next replica that takes it, as a service's address does."""

    def __init__(self, ports: list[int]) -> None:
        self._ports = ports
        self._turn = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        started = asyncio.run_coroutine_threadsafe(self._start(), self._loop)
        self._server = started.result(10)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    async def _start(self) -> asyncio.Server:
        return await asyncio.start_server(self._serve, "127.0.0.1", 0)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in self._ports:
            self._turn += 1
            with contextlib.suppress(OSError):
                port = self._ports[self._turn % len(self._ports)]
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

        asyncio.run_coroutine_threadsafe(end(), self._loop).result(10)
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
def replicas(tmp_path: Path) -> Iterator[list[Server]]:
    started = [Server(tmp_path, {"ENABLE_MOCK_INFERENCE": "1"}) for _ in range(2)]
    yield [server.ready() for server in started]
    for server in started:
        server.end()


@pytest.fixture
def proxy(replicas: list[Server]) -> Iterator[Proxy]:
    running = Proxy([server.port for server in replicas])
    yield running
    running.close()


@pytest.mark.parametrize("fate", [signal.SIGKILL, signal.SIGTERM])
def test_a_replica_that_goes_costs_no_caller_an_answer(
    replicas: list[Server], proxy: Proxy, fate: signal.Signals
) -> None:
    end = time.monotonic() + LOAD_S

    def ask(number: int) -> int:
        asked = 0
        with RerankClient(proxy.url) as client:
            wanted = client.rerank(f"query {number}", DOCUMENTS).scores
            while time.monotonic() < end:
                # Any replica gives the same scores.
                assert client.rerank(f"query {number}", DOCUMENTS).scores == wanted
                asked += 1
        return asked

    def waits_for_work(server: Server) -> bool:
        return '{kind="rank",outcome="answered"} 0.0' in server.get("/v1/metrics").text

    with ThreadPoolExecutor(CALLERS) as pool:
        callers = [pool.submit(ask, number) for number in range(CALLERS)]
        for server in replicas:
            server.wait_until(lambda server=server: not waits_for_work(server))  # type: ignore[misc]
        time.sleep(LOAD_S / 4)
        replicas[0].process.send_signal(fate)
        counts = [caller.result(60) for caller in callers]
    assert min(counts) > 0
    # A request that was being answered ends well when there is time for it.
    assert replicas[0].exit_code() == (0 if fate == signal.SIGTERM else -fate)
    assert replicas[1].stop() == 0
