"""Raw sockets: framing faults, slow and vanished clients; the server goes on after each."""

import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

BODY_LIMIT_BYTES = 100_000  # of the mock server, see conftest
REQUEST_TIMEOUT_S = 2
BODY = json.dumps({"query": {"text": "q"}, "passages": [{"text": "p"}]}).encode()


@pytest.fixture
def client(mock_server: Any) -> Iterator[httpx.Client]:
    """A client of a process that proves, after each test, that the next request works."""
    yield mock_server.http
    body = {"query": {"text": "still"}, "passages": [{"text": "there"}]}
    assert mock_server.rank(body).status_code == 200


def connect(client: httpx.Client) -> socket.socket:
    url = client.base_url
    return socket.create_connection((url.host, url.port or 80), timeout=10)


def head(*headers: str, path: str = "/v1/ranking") -> bytes:
    lines = (f"POST {path} HTTP/1.1", "host: x", "content-type: application/json", *headers)
    return "\r\n".join(lines).encode() + b"\r\n\r\n"


def reply(connection: socket.socket) -> tuple[int, bytes]:
    """Status and everything that came until the server closed or fell silent."""
    received = b""
    connection.settimeout(10)
    try:
        while part := connection.recv(65536):
            received += part
            if b"\r\n\r\n" in received:
                connection.settimeout(0.2)
    except (TimeoutError, ConnectionResetError):
        pass
    status = int(received.split(b" ", 2)[1]) if received else 0
    return status, received


def test_a_chunked_body_over_the_limit_is_refused(client: httpx.Client) -> None:
    chunk = b"8000\r\n" + b" " * 0x8000 + b"\r\n"
    with connect(client) as connection:
        connection.sendall(head("transfer-encoding: chunked") + chunk * 4 + b"0\r\n\r\n")
        status, received = reply(connection)
    assert status == 413
    assert b"connection: close" in received.lower()


def send_without_end(connection: socket.socket, chunk: bytes, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        connection.sendall(chunk)
        time.sleep(0.01)


def test_an_endless_chunked_body_is_cut_off(client: httpx.Client) -> None:
    chunk = b"8000\r\n" + b" " * 0x8000 + b"\r\n"
    began = time.monotonic()
    with connect(client) as connection:
        connection.sendall(head("transfer-encoding: chunked"))
        with pytest.raises(OSError, match=r"."):
            send_without_end(connection, chunk, seconds=8)
    assert time.monotonic() - began < 5


def test_a_large_announced_body_is_refused_without_being_asked_for(client: httpx.Client) -> None:
    with connect(client) as connection:
        connection.sendall(head("content-length: 99999999999", "expect: 100-continue"))
        status, received = reply(connection)
    assert status == 413
    assert b"100 Continue" not in received


def test_expect_100_continue(client: httpx.Client) -> None:
    with connect(client) as connection:
        connection.sendall(head(f"content-length: {len(BODY)}", "expect: 100-continue"))
        assert connection.recv(100).startswith(b"HTTP/1.1 100")
        connection.sendall(BODY)
        assert reply(connection)[0] == 200


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


def test_a_body_that_never_comes_is_waited_for_no_longer_than_allowed(
    client: httpx.Client,
) -> None:
    with connect(client) as connection:
        connection.sendall(head(f"content-length: {len(BODY) + 10}") + BODY)
        connection.settimeout(REQUEST_TIMEOUT_S + 3)
        assert connection.recv(100).startswith(b"HTTP/1.1 408")


def test_a_client_that_leaves_in_the_middle(client: httpx.Client) -> None:
    with connect(client) as connection:
        connection.sendall(head(f"content-length: {len(BODY) + 10}") + BODY)


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
    "raw",
    [
        b"\x16\x03\x01\x02\x00",
        b"GET /nowhere HTTP/9.9\r\n\r\n",
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


def test_two_requests_on_one_connection(client: httpx.Client) -> None:
    one = head(f"content-length: {len(BODY)}") + BODY
    with connect(client) as connection:
        connection.sendall(one + one)
        assert reply(connection)[1].count(b"HTTP/1.1 200") == 2


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


def test_all_bodies_together_are_bounded(start: Callable[..., Any]) -> None:
    """Sixteen large bodies arrive at the same time, none of them whole: some are refused, and
    neither small requests nor probes notice."""
    part = b"x" * (BODY_LIMIT_BYTES - 1000)
    given = {
        "ENABLE_MOCK_INFERENCE": "1",
        "NIM_HTTP_BODY_LIMIT_BYTES": str(BODY_LIMIT_BYTES),
        "NIM_REQUEST_TIMEOUT_S": "2",
    }
    server = start(given, "-c", _LITTLE_ROOM).ready()
    with httpx.Client(base_url=server.url) as client, contextlib.ExitStack() as stack:
        waiting = [stack.enter_context(connect(client)) for _ in range(16)]
        for connection in waiting:
            connection.sendall(head(f"content-length: {BODY_LIMIT_BYTES}") + part)
        time.sleep(0.5)
        refused = [connection for connection in waiting if status_of(connection, 0.01) == 503]
        assert client.get("/v1/health/live").status_code == 200
        assert client.get("/v1/health/ready").status_code == 200
        assert client.post("/v1/ranking", content=BODY).status_code == 200
        cut_off = [status_of(one, 5.0) for one in waiting if one not in refused]
    assert len(refused) >= 7
    assert set(cut_off) == {408}


def status_of(connection: socket.socket, patience_s: float) -> int | None:
    connection.settimeout(patience_s)
    try:
        return int(connection.recv(100).split(b" ", 2)[1])
    except TimeoutError:
        return None


def test_a_body_counts_until_it_is_answered(
    start: Callable[..., Any], slow_directory: Path
) -> None:
    """What is made of a body takes its memory while it is computed: whole bodies are refused."""
    server = start(
        {
            "NIM_CUSTOM_MODEL": str(slow_directory),
            "NIM_TRITON_MAX_BATCH_SIZE": "1",
            "RERANK_MAX_PASSAGES": "64",
            "NIM_HTTP_BODY_LIMIT_BYTES": "100000",
        },
        *("-c", _LITTLE_ROOM),
    ).ready()
    passages = [{"text": f"{number}"} for number in range(12)]
    body = {"query": {"text": "q"}, "passages": passages, "ignored": "x" * 90_000}
    with httpx.Client(base_url=server.url) as client, contextlib.ExitStack() as stack:
        waiting = [stack.enter_context(connect(client)) for _ in range(12)]
        content = json.dumps(body).encode()
        for connection in waiting:
            connection.sendall(head(f"content-length: {len(content)}") + content)
        statuses = [status_of(connection, 30.0) for connection in waiting]
    assert set(statuses) == {200, 503}
    assert 5 <= statuses.count(200) <= 8
    assert server.rank(body, timeout=30).status_code == 200
