"""One blocking client in many threads and in a forked process."""

import gc
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from rerank_client import RerankClient, RerankError
from rerank_client.connections import MAX_IDLE
from tests.rerank_client.scripted_server import Hang, ScriptedServer, ranking
from tests.waiting import PATIENCE_S, wait_until

QUERY = "which one?"
DOCUMENTS = ["first", "second", "third"]
GOOD = ranking([0.45, 0.85, -0.12])
BEST_FIRST = [1, 0, 2]


@pytest.fixture(autouse=True)
def _everything_is_closed() -> Iterator[None]:
    """Open connections warn when they are collected, and a warning is an error."""
    yield
    gc.collect()


@pytest.fixture
def client(server: ScriptedServer) -> Iterator[RerankClient]:
    server.script = [GOOD]
    with RerankClient(server.url, sleep=lambda _: None) as client:
        yield client


def test_threads_share_a_client(server: ScriptedServer, client: RerankClient) -> None:
    together = threading.Barrier(8)

    def several(_: int) -> list[list[int]]:
        together.wait()
        return [client.rerank(QUERY, DOCUMENTS).ranked_indices for _ in range(4)]

    with ThreadPoolExecutor(8) as threads:
        found = list(threads.map(several, range(8)))
    assert found == [[BEST_FIRST] * 4] * 8
    assert len(server.requests) == 32
    assert server.connections <= 8


def test_few_connections_stay_open(server: ScriptedServer) -> None:
    with RerankClient(server.url) as client:
        connections = client._connections
        taken = [connections.take() for _ in range(MAX_IDLE + 1)]
        for connection in taken:
            connections.give_back(connection, complete=True)
        again = [connections.take() for _ in range(MAX_IDLE + 1)]
        assert len(set(taken) & set(again)) == MAX_IDLE


def in_a_fork(client: RerankClient, calls: int) -> int:
    """The number of successful calls there."""
    child = os.fork()
    if child == 0:
        good = 0
        try:
            for _ in range(calls):
                good += client.rerank(QUERY, DOCUMENTS).ranked_indices == BEST_FIRST
        finally:
            os._exit(good)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def test_a_forked_process_has_its_own_connection(
    server: ScriptedServer, client: RerankClient
) -> None:
    client.rerank(QUERY, DOCUMENTS)
    assert in_a_fork(client, 2) == 2
    client.rerank(QUERY, DOCUMENTS)
    assert [request.connection for request in server.requests] == [0, 1, 1, 0]


def test_a_forked_process_leaves_nothing_of_its_parents_open(
    server: ScriptedServer, client: RerankClient
) -> None:
    client.rerank(QUERY, DOCUMENTS)
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        client.rerank(QUERY, DOCUMENTS)
        os.close(write_end)
        os.read(read_end, 1)  # until it is killed
        os._exit(0)
    try:
        wait_until(lambda: len(server.requests) == 2)
        client.close()
        # Were it still open in the child, the server would not see its end.
        wait_until(lambda: server.open_connections == 1)
    finally:
        os.kill(child, 9)
        os.waitpid(child, 0)
        os.close(read_end)
        os.close(write_end)


def test_a_closed_client_says_so(client: RerankClient) -> None:
    client.close()
    for call in (client.rerank, client.rerank_or_keep_order):
        with pytest.raises(RuntimeError, match="this client is closed"):
            call(QUERY, DOCUMENTS)
    client.close()


def test_a_call_that_runs_when_the_client_is_closed_is_an_error(
    server: ScriptedServer,
) -> None:
    server.script, waits = [Hang()], list[float]()
    client = RerankClient(server.url, sleep=waits.append)
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(client.rerank, QUERY, DOCUMENTS)
        wait_until(lambda: bool(server.requests))
        client.close()
        with pytest.raises(RerankError):
            call.result(PATIENCE_S)
    assert (len(server.requests), waits) == (1, [])


def test_a_client_that_nobody_closes_leaves_nothing_open(server: ScriptedServer) -> None:
    server.script = [GOOD]
    RerankClient(server.url).rerank(QUERY, DOCUMENTS)
    gc.collect()
    wait_until(lambda: server.open_connections == 0)


def test_what_a_pause_raises_passes_through(server: ScriptedServer, dead_url: str) -> None:
    """Above all an interrupt."""

    def interrupted(_: float) -> None:
        raise KeyboardInterrupt

    with (
        RerankClient(dead_url, sleep=interrupted) as client,
        pytest.raises(KeyboardInterrupt),
    ):
        client.rerank_or_keep_order(QUERY, DOCUMENTS)
