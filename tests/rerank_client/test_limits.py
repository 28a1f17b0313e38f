"""Limits of a call, whatever the server sends: memory and time."""

import asyncio
import gzip
import socket
import struct
import threading
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

import httpcore
import pytest

from rerank_client import RerankError, nim
from rerank_client.answer import max_answer_bytes
from rerank_client.budget import Budget, use_budget
from rerank_client.streams import AsyncStream
from rerank_client.transport import ERROR_BYTES, answer
from tests.rerank_client.conftest import Asker, MakeAsker
from tests.rerank_client.scripted_server import Endless, Hang, Raw, Say, ScriptedServer, ranking

QUERY = "which one?"
DOCUMENTS = ["first", "second", "third"]
SCORES = [0.45, 0.85, -0.12]
GOOD = ranking(SCORES)

CHUNKED = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"
CHUNK = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
# Allocations of httpx and the interpreter beside an answer.
LITTLE_BYTES = 2_000_000


@contextmanager
def little_memory() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < LITTLE_BYTES
    finally:
        tracemalloc.stop()


FLOODS = {
    "in chunks": Endless(CHUNKED, CHUNK),
    "in chunks of a byte": Endless(CHUNKED, b"1\r\n[\r\n" * 1000),
    "of a length": Endless(b"HTTP/1.1 200 OK\r\ncontent-length: 9999999999\r\n\r\n", b" " * 65536),
    "to the end": Endless(b"HTTP/1.1 200 OK\r\n\r\n", b" " * 65536),
    "of trailers": Endless(CHUNKED + b"0\r\n", b"x: " + b"y" * 1000 + b"\r\n"),
    "of one header": Endless(b"HTTP/1.1 200 OK\r\nx: ", b"y" * 65536),
    "of headers": Endless(b"HTTP/1.1 200 OK\r\n", b"x: " + b"y" * 1000 + b"\r\n"),
    "of interim answers": Endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 1000),
    "of a chunk's extension": Endless(CHUNKED + b"1;", b"x" * 65536),
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
def test_a_flood_ends_in_an_error_and_takes_little_memory(
    server: ScriptedServer, asker: Asker, flood: Endless
) -> None:
    server.script = [flood]
    with little_memory(), pytest.raises(RerankError, match=f"POST {server.url}/rerank: "):
        asker.rerank(QUERY, DOCUMENTS)


def test_what_an_answer_may_take_is_said(server: ScriptedServer, asker: Asker) -> None:
    server.script = [FLOODS["in chunks"]]
    with pytest.raises(RerankError) as raised:
        asker.rerank(QUERY, DOCUMENTS)
    most = max_answer_bytes(len("".join([QUERY, *DOCUMENTS])), len(DOCUMENTS))
    assert f"it takes more than {most} bytes, wanted at most that" in str(raised.value)
    assert (raised.value.status, raised.value.attempts) == (200, 1)


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "deflate", "br", "gzip, identity", "x"])
def test_a_compressed_answer_is_refused(
    server: ScriptedServer, asker: Asker, encoding: str
) -> None:
    bomb = gzip.compress(b" " * 20_000_000, 9)
    server.script = [Say(200, bomb, {"content-encoding": encoding})]
    wanted = f"content-encoding is {encoding}, wanted identity"
    with little_memory(), pytest.raises(RerankError, match=wanted) as raised:
        asker.rerank(QUERY, DOCUMENTS)
    assert raised.value.attempts == 1
    assert server.requests[0].headers["accept-encoding"] == "identity"


def test_identity_is_no_compression(server: ScriptedServer, asker: Asker) -> None:
    server.script = [Say(200, GOOD.body, {"content-encoding": "Identity"})]
    assert asker.rerank(QUERY, DOCUMENTS).scores == SCORES


def test_of_a_refusal_little_is_read(
    server: ScriptedServer, asker: Asker, waits: list[float]
) -> None:
    head = b"HTTP/1.1 503 No\r\ncontent-length: 9999999999\r\nretry-after: 2\r\n\r\n"
    server.script = [Endless(head, b" " * 65536), Say(400, b'{"message":"no"}'.ljust(ERROR_BYTES))]
    with little_memory(), pytest.raises(RerankError, match="status 400: no"):
        asker.rerank(QUERY, DOCUMENTS)
    (wait,) = waits
    assert 2 <= wait <= 3


def refuse_early(listening: socket.socket, most_bytes: int) -> None:
    """Answer 413 to the head of a request, read some of its body, and reset the connection."""
    connection, _ = listening.accept()
    with connection:
        received = b""
        while b"\r\n\r\n" not in received:
            received += connection.recv(1024)
        connection.sendall(Say(413, b'{"message":"too large"}').bytes())
        left = most_bytes
        while left > 0 and (piece := connection.recv(65536)):
            left -= len(piece)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def test_a_refusal_that_comes_before_the_request_is_complete_is_read(
    make_asker: MakeAsker,
) -> None:
    """More is read than the buffers of both ends hold, so the client writes after the refusal."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = threading.Thread(target=refuse_early, args=(listening, 16 << 20))
        server.start()
        asker = make_asker(base_url=f"http://127.0.0.1:{listening.getsockname()[1]}")
        with pytest.raises(RerankError, match="status 413: too large") as raised:
            asker.rerank(QUERY, ["x" * (64 << 20)])
        assert raised.value.attempts == 1
        server.join()


def test_cookies_are_not_collected(server: ScriptedServer, asker: Asker) -> None:
    server.script = [Say(200, GOOD.body, {"set-cookie": "a=b"})]
    for _ in range(2):
        asker.rerank(QUERY, DOCUMENTS)
    assert "cookie" not in server.requests[1].headers


@pytest.mark.parametrize("documents", [1, 1000])
@pytest.mark.parametrize(
    "text", ["\x1f" * 100, "日" * 100, "\N{GRINNING FACE}" * 100, "a" * 10_000]
)
def test_an_answer_that_repeats_the_documents_is_read(
    server: ScriptedServer, asker: Asker, documents: int, text: str
) -> None:
    """The answer of a server that ignores return_documents, indents and escapes everything."""
    escaped = "".join(f"\\u{ord(c):04x}" if ord(c) < 0x10000 else "\\ud83d\\ude00" for c in text)
    scores = [float(-place) for place in range(documents)]
    results = ",\n".join(
        f'        {{"index": {place}, "relevance_score": {score / 3!r}, "logit": {score / 3!r},'
        f' "document": {{"text": "{escaped}"}}}}'
        for place, score in enumerate(scores)
    )
    body = ranking(scores).body[:-1] + f', "results": [{results}]}}'.encode()
    server.script = [Say(200, body)]
    assert asker.rerank(QUERY, [text] * documents).scores == scores


def test_lists_that_are_too_long_are_not_made(server: ScriptedServer, asker: Asker) -> None:
    body = b'{"scores":[' + b"0," * 2_500_000 + b'0],"ranked_indices":[0,1,2]}'
    documents = ["x" * 1_000_000, "second", "third"]
    server.script = [Say(200, body)]
    with pytest.raises(RerankError, match="scores takes 5000003 bytes for 3 documents"):
        asker.rerank(QUERY, documents)


def test_a_nims_list_that_is_too_long_is_not_made(
    server: ScriptedServer, make_asker: MakeAsker
) -> None:
    ranked = b'{"index":0,"logit":1},' * 100_000
    server.script = [Say(200, b'{"rankings":[' + ranked[:-1] + b"]}")]
    documents = ["x" * 1_000_000, "second", "third"]
    with pytest.raises(RerankError, match="rankings takes 2200001 bytes for 3 documents"):
        make_asker(surface=nim()).rerank(QUERY, documents)


def test_an_answers_bytes_are_there_once() -> None:
    tracemalloc.start()
    try:
        body = BytesIO()
        for _ in range(100):
            body.write(b" " * 100_000)
        assert len(answer(httpcore.Response(200), body, None).body) == 10_000_000
        assert tracemalloc.get_traced_memory()[1] < 15_000_000
    finally:
        tracemalloc.stop()


def test_between_short_reads_the_event_loop_turns() -> None:
    asked = []

    class Inner(httpcore.AsyncNetworkStream):
        async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
            asked.append(max_bytes)
            return b""

    async def read() -> None:
        asyncio.get_running_loop().call_soon(asked.append, 0)
        with use_budget(Budget(1e9, 1)):
            await AsyncStream(Inner()).read(65536)
        assert asked == [8192, 0]

    asyncio.run(read())


def test_a_surplus_answer_is_nobodys_ranking(server: ScriptedServer, asker: Asker) -> None:
    """It came before its request; the connection stays open after it."""
    surplus = Endless(GOOD.bytes() + ranking([9.0, 8.0, 7.0]).bytes(), b"", 0.01)
    server.script = [surplus, GOOD]
    for _ in range(2):
        assert asker.rerank(QUERY, DOCUMENTS).scores == SCORES
    assert server.connections == 2


# A byte now and then: more often than any single timeout.
DRIPS = {
    "in the head": Endless(b"HTTP/1.1 200 OK\r\nx: ", b"y", 0.01),
    "before the head": Endless(b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.01),
    "in the body": Endless(b"HTTP/1.1 200 OK\r\ncontent-length: 99999\r\n\r\n", b" ", 0.01),
    "in a chunk's head": Endless(CHUNKED + b"1;", b"x", 0.01),
    "of chunks": Endless(CHUNKED, b"1\r\n \r\n", 0.01),
}


@pytest.mark.parametrize("step", [*DRIPS.values(), Hang()], ids=[*DRIPS, "nothing at all"])
def test_a_call_ends_while_the_server_drips(
    server: ScriptedServer, make_asker: MakeAsker, step: Endless | Hang
) -> None:
    """Without a limit it would continue until the server is closed."""
    server.script = [step]
    with pytest.raises(RerankError, match="Timeout"):
        make_asker(timeout_s=0.3).rerank(QUERY, DOCUMENTS)


def test_a_call_ends_while_the_server_takes_no_request(
    server: ScriptedServer, make_asker: MakeAsker
) -> None:
    server.deaf = True
    with pytest.raises(RerankError, match="Timeout"):
        make_asker(timeout_s=0.3).rerank(QUERY, ["x" * 20_000_000])


def test_a_refusal_whose_body_drips_is_still_that_refusal(
    server: ScriptedServer, make_asker: MakeAsker
) -> None:
    head = b"HTTP/1.1 401 No\r\ncontent-length: 99999\r\n\r\n"
    server.script = [Endless(head, b" ", 0.01)]
    with pytest.raises(RerankError, match="status 401") as raised:
        make_asker(timeout_s=0.3).rerank(QUERY, DOCUMENTS)
    assert raised.value.status == 401


def test_a_refusal_whose_body_breaks_off_is_still_that_refusal(
    server: ScriptedServer, asker: Asker
) -> None:
    server.script = [Raw(b"HTTP/1.1 422 No\r\ncontent-length: 100\r\n\r\n{")]
    with pytest.raises(RerankError, match="status 422") as raised:
        asker.rerank(QUERY, DOCUMENTS)
    assert raised.value.attempts == 1


@pytest.mark.parametrize("retry_after", ["5", "100000"])
def test_a_wait_that_outlasts_the_call_is_not_begun(
    server: ScriptedServer, make_asker: MakeAsker, waits: list[float], retry_after: str
) -> None:
    server.script = [Say(429, b"", {"retry-after": retry_after})]
    wanted = rf"status 429.*\(attempt 1 of 3, retry-after: {retry_after}, timeout_s: 3\)"
    with pytest.raises(RerankError, match=wanted):
        make_asker(timeout_s=3).rerank(QUERY, DOCUMENTS)
    assert not waits


def test_a_connection_serves_on_after_a_call_that_kept_its_limit(
    server: ScriptedServer, make_asker: MakeAsker
) -> None:
    """A connection outlives the limit of the call that opened it."""
    server.script = [GOOD]
    asker = make_asker()
    for _ in range(3):
        asker.rerank(QUERY, DOCUMENTS)
    assert server.connections == 1


@pytest.mark.parametrize("timeout_s", [0, -1, float("nan"), 10**400])
def test_a_limit_that_is_none_is_refused(make_asker: MakeAsker, timeout_s: float) -> None:
    with pytest.raises(ValueError, match=r"timeout_s is .*, wanted "):
        make_asker(timeout_s=timeout_s)


@pytest.mark.parametrize("timeout_s", [1e9, float("inf")])
def test_a_limit_may_be_far_away(
    server: ScriptedServer, make_asker: MakeAsker, timeout_s: float
) -> None:
    server.script = [Say(503), GOOD]
    assert make_asker(timeout_s=timeout_s).rerank(QUERY, DOCUMENTS).scores == SCORES
