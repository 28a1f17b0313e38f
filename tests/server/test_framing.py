"""What a connection's bytes may cost, counted in events: no socket, no clock."""

import asyncio
import json
import logging
from collections.abc import Callable, Coroutine
from functools import wraps
from typing import Any

import pytest

from server import framing, lingering
from server.auth import AccessMiddleware
from server.nim_error import error_body
from server.settings import read_settings
from tests.server.wire import Wire, deny, echo

POST = b"POST /p HTTP/1.1\r\nhost: h\r\n"
CHUNKED = POST + b"transfer-encoding: chunked\r\n\r\n"
ONE_BYTE = b"1\r\nx\r\n"
MIB = 1 << 20
HOUR_S = 3600.0


def in_loop(test: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., None]:
    """The test, in an event loop of its own."""

    @wraps(test)
    def run(*given: Any, **named: Any) -> None:
        asyncio.run(test(*given, **named))

    return run


@pytest.fixture(autouse=True)
def _no_time_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lingering, "_LINGER_S", HOUR_S)


UNFINISHED = [
    CHUNKED,
    POST + b"content-length: 400000000\r\n\r\n",
    b"GET /p HTTP/1.1\r\nhost: h\r\ncontent-length: 9\r\n\r\n",
    b"GET /p HTTP/1.1\r\nhost: h\r\ncontent-length: 9\r\nexpect: 100-continue\r\n\r\n",
]


@pytest.mark.parametrize("head", UNFINISHED)
@in_loop
async def test_nothing_is_parsed_after_an_answer(head: bytes) -> None:
    """It says that the connection ends, and ends its own side; what still comes is dropped, and
    beyond a bound the connection is closed."""
    wire = Wire(deny)
    wire.send(head)
    assert await wire.answered() == 401
    await wire.until(lambda: wire.ended)
    assert b"\r\nconnection: close\r\n" in wire.written
    assert not wire.closed
    parsed, written = wire.events, wire.written
    wire.send(ONE_BYTE * (MIB // 6))
    await asyncio.sleep(0)
    assert not wire.closed
    assert not wire.paused
    wire.send(b"x" * 64 * MIB)
    assert wire.closed
    assert (wire.events, wire.written) == (parsed, written)


@in_loop
async def test_a_client_that_goes_on_slowly_is_closed_in_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(lingering, "_LINGER_S", 0.0)
    wire = Wire(deny)
    wire.send(CHUNKED)
    await wire.until(lambda: wire.closed)
    assert await wire.answered() == 401


@in_loop
async def test_an_answer_to_a_whole_request_keeps_the_connection() -> None:
    wire = Wire(deny)
    for count in (1, 2, 3):
        wire.send(POST + b"content-length: 2\r\n\r\nab")
        await wire.until(lambda count=count: wire.written.count(b"401") == count)
    assert b"connection: close" not in wire.written
    assert not wire.ended


@in_loop
async def test_many_chunks_are_parsed_in_time_slices_that_all_connections_share() -> None:
    """As many events in one iteration of the loop as a turn has, whatever came on how many
    connections, and nothing more is read meanwhile."""
    wires = [Wire(echo) for _ in range(4)]
    for wire in wires:
        before = wire.events
        wire.send(CHUNKED + ONE_BYTE * 8000)
        assert wire.events - before <= framing._EVENTS_AT_ONCE
        assert wire.paused
    while not all(wire.written for wire in wires):
        before = sum(wire.events for wire in wires)
        await asyncio.sleep(0)
        assert sum(wire.events for wire in wires) - before <= framing._EVENTS_PER_SLICE
        for wire in wires:
            if not wire.paused and wire.events > 8000 and not wire.written:
                wire.send(b"0\r\n\r\n")
    assert all(wire.written.endswith(b"/p h 8000") for wire in wires)
    assert not any(wire.paused for wire in wires)


@in_loop
async def test_a_small_request_does_not_wait_for_the_time_slices_of_others() -> None:
    wires = [Wire(echo) for _ in range(50)]
    for wire in wires:
        wire.send(CHUNKED + ONE_BYTE * 8000)
    probe = Wire(echo)
    probe.send(b"GET /live HTTP/1.1\r\nhost: h\r\n\r\n")
    for _ in range(5):
        await asyncio.sleep(0)
    assert probe.written.endswith(b"/live h 0")


@pytest.mark.parametrize(
    ("chunk", "chunks"),
    [(ONE_BYTE, MIB), (b"1;" + b"e" * 10_000 + b"\r\nx\r\n", 100), (b"10\r\n" + b"x" * 16, 0)],
)
@in_loop
async def test_what_chunks_add_to_a_body_is_bounded(chunk: bytes, chunks: int) -> None:
    """Lines, extensions and trailers."""
    wire = Wire(echo)
    wire.send(CHUNKED)
    rest = chunk * chunks or chunk + b"\r\n0\r\n" + b"a: b\r\n" * 40_000
    for begin in range(0, len(rest), MIB // 4):
        await wire.until(lambda: wire.protocol._closing_early or not wire.paused)
        wire.send(rest[begin : begin + MIB // 4])
    assert await wire.answered() in (400, 431)
    assert b"\r\nconnection: close\r\n" in wire.written
    assert wire.events < 60_000


@in_loop
async def test_a_body_in_chunks_of_a_usual_size_is_one_body() -> None:
    wire = Wire(echo)
    wire.send(CHUNKED)
    for _ in range(64):
        await wire.until(lambda: not wire.paused)
        wire.send(b"40\r\n" + b"x" * 64 + b"\r\n" + b"8000\r\n" + b"x" * 0x8000 + b"\r\n")
    await wire.until(lambda: not wire.paused)
    wire.send(b"0\r\ntrailer: t\r\n\r\n")
    assert await wire.answered() == 200
    assert wire.written.endswith(b" %d" % (64 * (0x8000 + 64)))


@in_loop
async def test_json_that_is_sent_as_it_is_encoded_is_one_body() -> None:
    """In chunks of a few bytes each, as `iterencode` makes them."""
    wire = Wire(echo)
    wire.send(CHUNKED)
    for _ in range(40):
        await wire.until(lambda: not wire.paused)
        wire.send((b"a\r\n" + b"x" * 10 + b"\r\n") * 500)
    await wire.until(lambda: not wire.paused)
    wire.send(b"0\r\n\r\n")
    assert await wire.answered() == 200
    assert wire.written.endswith(b" 200000")


REFUSED = {
    "length and chunks": (400, POST + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n"),
    "two lengths": (400, POST + b"content-length: 5\r\ncontent-length: 6\r\n\r\n"),
    "two lengths in one": (400, POST + b"content-length: 5, 6\r\n\r\n"),
    "a signed length": (400, POST + b"content-length: +5\r\n\r\n"),
    "another coding": (400, POST + b"transfer-encoding: gzip, chunked\r\n\r\n"),
    "no coding": (400, POST + b"transfer-encoding: identity\r\n\r\n"),
    "chunks twice": (400, POST + b"transfer-encoding: chunked\r\n" * 2 + b"\r\n"),
    "chunks in 1.0": (400, CHUNKED.replace(b"1.1", b"1.0")),
    "a folded line": (400, POST + b"a: b\r\n c\r\n\r\n"),
    "a folded length": (400, POST + b"content-length:\r\n 5\r\n\r\n"),
    "space before a colon": (400, POST + b"content-length : 5\r\n\r\n"),
    "line feeds alone": (400, b"GET /p HTTP/1.1\nhost: h\n\n"),
    "one line feed alone": (400, POST + b"a: b\nc: d\r\n\r\n"),
    "a carriage return alone": (400, POST + b"a: b\rc: d\r\n\r\n"),
    "two empty lines": (400, b"\r\n\r\nGET /p HTTP/1.1\r\nhost: h\r\n\r\n"),
    "an empty line that is none": (400, b"\nGET /p HTTP/1.1\r\nhost: h\r\n\r\n"),
    "no host": (400, b"GET /p HTTP/1.1\r\n\r\n"),
    "no host in 1.2": (400, b"GET /p HTTP/1.2\r\n\r\n"),
    "two hosts": (400, POST + b"host: g\r\n\r\n"),
    "version 9.9": (505, b"GET /p HTTP/9.9\r\nhost: h\r\n\r\n"),
    "version 2.0": (505, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
    "version 0.9": (505, b"HEAD /p HTTP/0.9\r\n\r\n"),
    "TLS": (400, b"\x16\x03\x01\x02\x00\r\n\r\n"),
    "a proxy's": (400, b"CONNECT h:443 HTTP/1.1\r\nhost: h\r\n\r\n"),
    "no path": (400, b"GET ?a HTTP/1.1\r\nhost: h\r\n\r\n"),
    "another scheme": (400, b"GET ftp://h/p HTTP/1.1\r\nhost: h\r\n\r\n"),
    "no authority": (400, b"GET http:///p HTTP/1.1\r\nhost: h\r\n\r\n"),
    "a name and key": (400, b"GET http://n:k@h/p HTTP/1.1\r\nhost: h\r\n\r\n"),
    "no server": (400, b"GET * HTTP/1.1\r\nhost: h\r\n\r\n"),
    "a chunk of no size": (400, CHUNKED + b"x\r\n"),
    "a long head": (431, POST + b"a: " + b"b" * 70_000 + b"\r\n\r\n"),
    "a longer head": (431, POST + b"a: " + b"b" * 250_000 + b"\r\n\r\n"),
    "a head of many": (431, POST + b"a:\r\n" * 50_000 + b"\r\n"),
    "an endless head": (431, POST + b"a: " + b"b" * 300_000),
}


@pytest.mark.parametrize("name", REFUSED)
@in_loop
async def test_what_could_be_read_in_two_ways_is_refused(name: str) -> None:
    """In JSON, where the method has an answer's body, and the connection ends."""
    status, raw = REFUSED[name]
    wire = Wire(echo)
    wire.send(raw)
    assert await wire.answered() == status
    head, _, body = wire.written.partition(b"\r\n\r\n")
    assert b"\r\nconnection: close" in head.lower()
    if raw.startswith(b"HEAD"):
        assert not body
    else:
        assert json.loads(body)["object"] == "error"
    await wire.until(lambda: wire.ended)
    assert wire.written.count(b"HTTP/1.1 ") == 1


@pytest.mark.parametrize(
    ("line", "answer"),
    [
        (b"GET http://other:80/p?q=1 HTTP/1.1", b"/p other:80 0"),
        (b"GET HTTPS://[::1]/p HTTP/1.1", b"/p [::1] 0"),
        (b"GET http://other HTTP/1.1", b"/ other 0"),
        (b"GET http://other?q HTTP/1.1", b"/ other 0"),
        (b"GET /p HTTP/1.1", b"/p h 0"),
        (b"GET /p HTTP/1.3", b"/p h 0"),
        (b"GET /http://other/p HTTP/1.1", b"/http://other/p h 0"),
        (b"OPTIONS * HTTP/1.1", b"* h 0"),
        (b"GET /%zz%00%ff HTTP/1.0", "/%zz\0� h 0".encode()),
    ],
)
@in_loop
async def test_targets(line: bytes, answer: bytes) -> None:
    """A whole address is its path, and its authority stands for Host (RFC 9112, 3.2.2)."""
    wire = Wire(echo)
    wire.send(line + b"\r\nhost: h\r\n\r\n")
    assert await wire.answered() == 200
    assert wire.written.endswith(b"\r\n\r\n" + answer)


@pytest.mark.parametrize(("target", "status"), [(b"/p", 400), (b"http://rank.me:80/p", 200)])
@in_loop
async def test_the_host_of_an_address_is_the_one_that_must_be_allowed(
    target: bytes, status: int
) -> None:
    settings = read_settings({"ENABLE_MOCK_INFERENCE": "1", "RERANK_ALLOWED_HOSTS": "rank.me"})
    for given in (target, target.replace(b"rank", b"evil")):
        wire = Wire(AccessMiddleware(echo, settings, lambda _: error_body))
        wire.send(b"GET " + given + b" HTTP/1.1\r\nhost: evil.me\r\n\r\n")
        assert await wire.answered() == (status if given == target else 400)


@in_loop
async def test_a_head_that_comes_in_pieces_has_the_same_bound() -> None:
    raw = POST + b"a: " + b"b" * 16_000 + b"\r\n\r\n"
    for size in (1, 1000, len(raw)):
        wire = Wire(deny)
        for begin in range(0, len(raw), size):
            wire.send(raw[begin : begin + size])
        assert await wire.answered() == 401
        too_long = raw.replace(b"b" * 16_000, b"b" * 17_000)
        wire = Wire(deny)
        for begin in range(0, len(too_long), size):
            wire.send(too_long[begin : begin + size])
        assert await wire.answered() == 431


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
@in_loop
async def test_an_empty_line_before_a_request_is_ignored(size: int) -> None:
    """One (RFC 9112, 2.2), before the first request and behind a body."""
    wire = Wire(echo)
    raw = b"\r\n" + POST + b"content-length: 2\r\n\r\nab"
    for count in (1, 2, 3):
        for begin in range(0, len(raw), size):
            wire.send(raw[begin : begin + size])
        await wire.until(lambda count=count: wire.written.count(b"/p h 2") == count)
    wire.send(b"\r\n")
    assert wire.protocol.has_partial_head  # it has no more time than a head
    assert wire.written.count(b"HTTP/1.1 ") == 3


@pytest.mark.parametrize(
    "raw",
    [
        b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 250_000,
        POST + b"content-length: 5\r\ntransfer-encoding: chunked\r\n\r\n" + b"x" * 250_000,
        CHUNKED + b"x\r\n" + b"x" * 250_000,
    ],
)
@in_loop
async def test_a_refused_client_is_read_until_it_ends(raw: bytes) -> None:
    """So that it reads the answer: nothing is kept of what came, and its end is noticed."""
    wire = Wire(echo)
    wire.send(raw)
    assert await wire.answered() in (400, 431)
    assert not wire.paused
    assert not wire.closed
    assert not wire.protocol._unparsed
    dropped = wire.protocol.transport._dropped_bytes
    assert len(raw) - 2 * 16 * 1024 - 1 <= dropped <= len(raw)
    wire.send(b"x" * 20 * MIB)
    assert wire.protocol.transport._dropped_bytes == dropped + 20 * MIB
    assert not wire.paused


@in_loop
async def test_an_offer_of_http_2_is_ignored_without_a_word(
    caplog: pytest.LogCaptureFixture,
) -> None:
    offer = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAEA\r\n"
    with caplog.at_level(logging.DEBUG):
        wire = Wire(echo)
        for count in (1, 2):
            wire.send(POST + offer + b"content-length: 3\r\n\r\nabc")
            await wire.until(lambda count=count: wire.written.count(b"/p h 3") == count)
    assert not [record for record in caplog.records if record.levelno > logging.INFO]


@in_loop
async def test_requests_that_come_together_are_answered_one_after_the_other() -> None:
    wire = Wire(echo)
    one = POST + b"content-length: 9000\r\n\r\n" + b"x" * 9000
    wire.send((one + CHUNKED + b"3\r\nabc\r\n0\r\n\r\n") * 20)
    await wire.until(lambda: wire.written.count(b"HTTP/1.1 200") == 40)
    assert wire.written.count(b"/p h 9000") == wire.written.count(b"/p h 3") == 20
