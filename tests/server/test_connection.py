"""Raw sockets: framing faults, slow and vanished clients; the server goes on after each."""

import asyncio
import contextlib
import json
import re
import select
import socket
import time
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
from litestar import Request

from server import service as service_module
from server.connection import BodyBudget, read_body
from tests.server.conftest import BODY_LIMIT_BYTES, HELD, Server, Start
from tests.server.figures import figures, sums
from tests.server.gate import GATED_TOKENS, Gate
from tests.server.in_process import Serve
from tests.waiting import PATIENCE_S

BODY = json.dumps({"query": {"text": "q"}, "passages": [{"text": "p"}]}).encode()


@pytest.fixture
def client(mock_server: Any) -> Iterator[httpx.Client]:
    """A client of a process that proves, after each test, that the next request works."""
    yield mock_server.http
    body = {"query": {"text": "still"}, "passages": [{"text": "there"}]}
    assert mock_server.rank(body).status_code == 200


def connect(client: httpx.Client) -> socket.socket:
    url = client.base_url
    return socket.create_connection((url.host, url.port or 80), timeout=PATIENCE_S)


def head(*headers: str, path: str = "/v1/ranking") -> bytes:
    lines = (f"POST {path} HTTP/1.1", "host: x", "content-type: application/json", *headers)
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def replies(connection: socket.socket) -> Iterator[tuple[int, bytes]]:
    """Status, and head and body, of one answer after the other; 0 and what came of an answer that
    did not come whole before the server closed."""
    received = b""
    with contextlib.suppress(ConnectionResetError), connection.makefile("rb") as lines:
        while line := lines.readline():
            received += line
            if line == b"\r\n":
                length = re.search(rb"\r\ncontent-length: (\d+)\r\n", received.lower())
                assert length is not None, received
                received += lines.read(int(length[1]))
                yield int(received.split(b" ", 2)[1]), received
                received = b""
    yield 0, received


def reply(connection: socket.socket) -> tuple[int, bytes]:
    """The next one."""
    return next(replies(connection))


def test_a_chunked_body_over_the_limit_is_refused(client: httpx.Client) -> None:
    chunk = b"8000\r\n" + b" " * 0x8000 + b"\r\n"
    with connect(client) as connection:
        connection.sendall(head("transfer-encoding: chunked") + chunk * 4 + b"0\r\n\r\n")
        status, received = reply(connection)
    assert status == 413
    assert b"connection: close" in received.lower()


def send_until_cut_off(connection: socket.socket, chunk: bytes) -> None:
    end = time.monotonic() + PATIENCE_S
    while time.monotonic() < end:
        connection.sendall(chunk)
        time.sleep(0.01)


def test_an_endless_chunked_body_is_cut_off(client: httpx.Client) -> None:
    chunk = b"8000\r\n" + b" " * 0x8000 + b"\r\n"
    with connect(client) as connection:
        connection.sendall(head("transfer-encoding: chunked"))
        with pytest.raises(ConnectionError):
            send_until_cut_off(connection, chunk)


def test_many_small_chunks_are_one_body(client: httpx.Client) -> None:
    chunks = b"".join(b"1\r\n" + bytes([byte]) + b"\r\n" for byte in BODY)
    with connect(client) as connection:
        connection.sendall(head("transfer-encoding: chunked") + chunks + b"0\r\n\r\n")
        assert reply(connection)[0] == 200


@pytest.mark.parametrize("length", ["-1", "x", "1, 2", "9" * 40])
def test_a_content_length_that_is_no_length(client: httpx.Client, length: str) -> None:
    with connect(client) as connection:
        connection.sendall(head(f"content-length: {length}") + BODY)
        status, received = reply(connection)
    assert 400 <= status < 500
    assert b"Traceback" not in received


def test_a_content_length_that_is_too_small_cuts_the_body(client: httpx.Client) -> None:
    with connect(client) as connection:
        connection.sendall(head("content-length: 10") + BODY)
        assert reply(connection)[0] == 400


def test_a_body_that_never_comes_is_waited_for_no_longer_than_allowed(hasty: Server) -> None:
    with connect(hasty.http) as connection:
        connection.sendall(head(f"content-length: {len(BODY) + 10}") + BODY)
        assert reply(connection)[0] == 408


@pytest.mark.parametrize(
    "request_line",
    ["POST //v1//ranking HTTP/1.1", "POST /v1/ranking/ HTTP/1.1", "POST /v1/ranking?x=1 HTTP/1.1"],
)
def test_spellings_of_a_path(client: httpx.Client, request_line: str) -> None:
    raw = head(f"content-length: {len(BODY)}").replace(b"POST /v1/ranking HTTP/1.1", b"LINE")
    with connect(client) as connection:
        connection.sendall(raw.replace(b"LINE", request_line.encode()) + BODY)
        assert reply(connection)[0] == 200


@pytest.mark.parametrize(
    ("line", "wanted"),
    [
        ("GET http://other:80/v1/models HTTP/1.1", 200),
        ("GET /v1/models HTTP/1.2", 200),
        ("OPTIONS /v1/ranking HTTP/1.1", 204),
        ("OPTIONS * HTTP/1.1", 404),
        ("TRACE /v1/ranking HTTP/1.1", 405),
        ("BREW /v1/ranking HTTP/1.1", 405),
        ("GET /%zz%00%ff HTTP/1.1", 404),
        ("CONNECT other:443 HTTP/1.1", 400),
        ("GET /v1/models HTTP/9.9", 505),
    ],
)
def test_request_lines(client: httpx.Client, line: str, wanted: int) -> None:
    with connect(client) as connection:
        connection.sendall(f"{line}\r\nhost: x\r\n\r\n".encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 %d" % wanted)


@pytest.mark.parametrize("framing", ["transfer-encoding: chunked", "content-length: 99999999"])
def test_an_answer_before_the_body_ends_the_connection(client: httpx.Client, framing: str) -> None:
    with connect(client) as connection:
        connection.sendall(head(framing, path="/nowhere"))
        answers = replies(connection)
        status, received = next(answers)
        assert next(answers) == (0, b"")
    assert status == 404
    assert b"\r\nconnection: close\r\n" in received.lower()


@pytest.mark.parametrize(
    "raw",
    [
        b"\x16\x03\x01\x02\x00",
        b"POST /v1/ranking HTTP/1.1\r\nhost: \xff\r\n\r\n",
        b"POST /v1/ranking HTTP/1.1\r\nhost: x\r\ncontent-type: \xff\xfe\r\n"
        b"content-length: 2\r\n\r\n{}",
        b"POST /v1%00/ranking HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n",
    ],
)
def test_bytes_that_are_hardly_http(client: httpx.Client, raw: bytes) -> None:
    with connect(client) as connection:
        connection.sendall(raw)
        status, received = reply(connection)
    assert status == 0 or 400 <= status < 500
    assert b"Traceback" not in received


def test_an_offer_to_upgrade_does_not_lose_the_body(client: httpx.Client) -> None:
    """Java's HTTP client offers HTTP/2 with every plain request."""
    body = b'{"query":{"text":"q"},"passages":[{"text":"p"}]}'
    offer = head(
        "Connection: Upgrade, HTTP2-Settings",
        "Upgrade: h2c",
        "HTTP2-Settings: AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAAAAYABgAA",
        f"Content-Length: {len(body)}",
    )
    with connect(client) as connection:
        connection.sendall(offer + body)
        assert reply(connection)[0] == 200


# The server, with room for eight bodies of the largest size, however small that is.
_LITTLE_ROOM = (
    "import sys, server.service as service; from server.cli import main; "
    "service._ROOM_FOR_BODIES = 0; sys.exit(main())"
)


def test_a_body_is_in_memory_once() -> None:
    """A copy at its end would stop the event loop for a second per gigabyte, and double it."""
    part, count = bytes(1 << 16), 256
    messages = [{"type": "http.request", "body": part, "more_body": True}] * count
    messages.append({"type": "http.request", "body": b"", "more_body": False})
    sizes = []

    async def application(scope: Any, receive: Any, send: Any) -> None:
        sizes.append(len(await read_body(Request(scope, receive, send), 1 << 30, PATIENCE_S)))

    async def receive() -> Any:
        return messages.pop(0)

    async def run() -> None:
        scope: Any = {"type": "http", "headers": [], "state": {}}
        await BodyBudget(1 << 30).middleware(application)(scope, receive, None)  # type: ignore[arg-type]

    tracemalloc.start()
    asyncio.run(run())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert sizes == [count * len(part)]
    assert peak < 1.5 * sizes[0]


def test_all_bodies_together_are_bounded(start: Start) -> None:
    """Sixteen large bodies, none of them whole: more than seven have no room, and neither small
    requests nor probes notice. Those that have left take no room any more."""
    part = b"x" * (BODY_LIMIT_BYTES - 1000)
    limit = {"NIM_HTTP_BODY_LIMIT_BYTES": str(BODY_LIMIT_BYTES)}
    given = {**HELD, **limit}
    server = start(given, "-c", _LITTLE_ROOM).ready()
    client = server.http
    large = BODY.ljust(BODY_LIMIT_BYTES)
    for _ in range(2):
        with contextlib.ExitStack() as stack:
            waiting = [stack.enter_context(connect(client)) for _ in range(16)]
            for connection in waiting:
                connection.sendall(head(f"content-length: {BODY_LIMIT_BYTES}") + part)
            refused: set[socket.socket] = set()
            while len(refused) < 9:
                answered, _, _ = select.select(set(waiting) - refused, [], [], PATIENCE_S)
                assert answered
                assert {reply(connection)[0] for connection in answered} == {503}
                refused.update(answered)
            assert client.get("/v1/health/live").status_code == 200
            assert client.get("/v1/health/ready").status_code == 200
            assert client.post("/v1/ranking", content=BODY).status_code == 200
        server.wait_until(lambda: client.post("/v1/ranking", content=large).status_code == 200)


@pytest.mark.parametrize(("ignored", "fit"), [("x" * 90_000, 7), ([[]] * 2_000, 1)])
def test_a_body_counts_until_it_is_answered(
    serve: Serve, gate: Gate, monkeypatch: pytest.MonkeyPatch, ignored: object, fit: int
) -> None:
    """What is made of a body takes its memory while it is computed, and more where it has many
    values: whole bodies are refused."""
    monkeypatch.setattr(service_module, "_ROOM_FOR_BODIES", 0)
    limit = {"NIM_HTTP_BODY_LIMIT_BYTES": str(BODY_LIMIT_BYTES)}
    server = serve({**HELD, **limit})
    passages = [{"text": "x" * GATED_TOKENS}]
    body = {"query": {"text": "q"}, "passages": passages, "ignored": ignored}
    with ThreadPoolExecutor(fit) as pool:
        taken = []
        for number in range(fit):
            taken.append(pool.submit(server.rank, body))
            while sums(figures(server))[0] == number:
                assert not taken[-1].done()
        assert server.rank(body).status_code == 503
        gate.open()
        assert {one.result().status_code for one in taken} == {200}
    assert server.rank(body).status_code == 200
