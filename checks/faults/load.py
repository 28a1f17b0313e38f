"""Groups 7 and 8: load, slow and vanishing clients, scarce memory and file descriptors."""

import contextlib
import resource
import socket
import struct
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from types import MappingProxyType

import httpx

from checks.faults.fault import Fault, answered, expect
from checks.faults.models import counting_model, passage, work_of
from checks.faults.target import BODY, Stopwatch, Target, ranking
from checks.serving import Server

_LOAD, _SCARCE = "7 load", "8 scarce"
_HASTY = {200, 429, 503, 504}
_SLOW_CLIENT_S = 45.0
_HEALTH_S = 1.0
_ORDINARY_S = 5.0
# Duration of an engine call on any machine; longer when other processes use it.
_CALL_S = 0.03


@contextlib.contextmanager
def _slow_server(target: Target, **more: str) -> Iterator[Server]:
    """A server of our own with one row per call and tens of milliseconds per call."""
    given = {"NIM_TRITON_MAX_BATCH_SIZE": "1", "RERANK_MAX_PASSAGES": "512", **more}
    with counting_model(work=work_of(_CALL_S)) as model, target.start(given, model=model) as server:
        yield server.ready()


def _rows(count: int) -> dict[str, object]:
    return ranking(*(passage(60, f"{i:03}") for i in range(count)), query="q")


def _waiting(server: Server) -> float:
    return server.counted("nv_inference_pending_request_count")


def _computed(server: Server) -> float:
    """Rows that the engine has computed, once none is waiting."""
    server.wait_until(lambda: not _waiting(server))
    return server.counted("nv_inference_count{")


@contextlib.contextmanager
def _busy(server: Server, rows: int) -> Iterator[Future[httpx.Response]]:
    """While the rows of a large request wait; it must be answered at last."""
    with ThreadPoolExecutor(1) as pool:
        large = pool.submit(server.rank, _rows(rows))
        server.wait_until(lambda: _waiting(server))
        yield large
        answered(large.result())


def _burst(target: Target) -> None:
    """200 requests at once: each is answered or refused."""

    def ask(number: int) -> int:
        return target.rank(*(f"burst {number} {i}" for i in range(20))).status_code

    with ThreadPoolExecutor(50) as pool:
        found = list(pool.map(ask, range(200)))
    expect(set(found) <= _HASTY, f"found statuses {sorted(set(found))}")
    expect(200 in found, "no request was answered")


def _full_queue(target: Target) -> None:
    with _slow_server(target, NIM_MAX_QUEUE_SIZE="100") as server:
        before = _computed(server)
        with _busy(server, 100) as first:
            for _ in range(5):
                refused = server.rank(_rows(100))
                expect(refused.status_code in (429, 503), f"found {refused.status_code}")
                expect(int(refused.headers.get("retry-after", "0")) >= 1, "no Retry-After")
            expect(not first.done(), "the refusals waited for the queue")
        rows = _computed(server) - before
        expect(rows == 100, f"{rows:.0f} rows were computed for a request of 100")


def _full_of_tokens(target: Target) -> None:
    with _slow_server(target, RERANK_MAX_QUEUE_TOKENS="3000") as server, _busy(server, 48):
        expect(server.rank(_rows(48)).status_code == 503, "a queue full of tokens took more")
        answered(server.rank(_rows(1)))


def _small_beside_large(target: Target) -> None:
    with _slow_server(target) as server, _busy(server, 150) as large:
        for _ in range(5):
            answered(server.rank(_rows(1)))
        expect(not large.done(), "small requests waited for a large one")


def _cannot_be_in_time(target: Target) -> None:
    with _slow_server(target, NIM_REQUEST_TIMEOUT_S="2") as server:
        for _ in range(10):
            answered(server.rank(_rows(1)))
        before = _computed(server)
        found = server.rank(_rows(512))
        expect(found.status_code == 503, f"found {found.status_code}, wanted 503 at admission")
        more = _computed(server) - before
        expect(not more, f"{more:.0f} rows of a refused request were computed")


def _deadline_passes(target: Target) -> None:
    with _slow_server(target, NIM_REQUEST_TIMEOUT_S="1") as server:
        found = server.rank(_rows(200))  # nothing has been measured yet
        expect(found.status_code in (503, 504), f"found {found.status_code}")
        expect(_computed(server) < 200, "rows were computed whose deadline had passed")


def _hangs_up_while_waiting(target: Target) -> None:
    with _slow_server(target) as server:
        with contextlib.suppress(httpx.TimeoutException):
            server.rank(_rows(200), timeout=0.5)
        expect(_computed(server) < 200, "rows were computed for a client that had gone")


def _hangs_up_early(part: float, target: Target, *, resets: bool = False) -> None:
    """Connections that end, with a reset or without, after this part of a request."""
    raw = target.head(f"Content-Length: {len(BODY)}") + BODY
    for _ in range(20):
        with target.connection() as connected:
            if resets:
                connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            connected.sendall(raw[: int(len(raw) * part)])


def _drip(target: Target, raw: bytes, byte: bytes) -> None:
    """Send `raw`, then `byte` every half second, until it answers or ends the connection."""
    began = time.monotonic()
    with target.connection() as connected:
        connected.sendall(raw)
        connected.settimeout(0.5)
        while True:
            try:
                connected.sendall(byte)
                connected.recv(100)
            except TimeoutError:
                waited_s = time.monotonic() - began
                expect(waited_s < _SLOW_CLIENT_S, f"held open for {waited_s:.0f} s")
            except OSError:
                return
            else:
                return


def _slow_head(target: Target) -> None:
    _drip(target, target.head()[:40], b"x")


def _slow_body(target: Target) -> None:
    _drip(target, target.head("Content-Length: 1000000"), b" ")


def _slow_clients_and_others(target: Target) -> None:
    """100 clients that stop sending must not delay other clients."""
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            connected = stack.enter_context(target.connection())
            connected.sendall(target.head("Content-Length: 1000000")[:-1])
        watch = Stopwatch(target)
        answered(target.rank())
        watch.expect(_ORDINARY_S, "an ordinary request")


def _slow_reader(target: Target) -> None:
    with target.connection() as connected:
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw = target.head(method="GET", path="/openapi.json")
        with contextlib.suppress(OSError):
            connected.sendall(raw * 200)
        watch = Stopwatch(target)
        answered(target.rank())
        watch.expect(_ORDINARY_S, "an ordinary request")


def _idle(target: Target) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    count = min(10_000, hard - 100)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count + 100), hard))
    with contextlib.ExitStack() as stack:
        for number in range(count):
            try:
                connected = stack.enter_context(target.connection())
                if number % 10 == 0:
                    connected.sendall(target.head(method="GET", path="/v1/health/live"))
            except OSError:
                break
        expect(number > 100, f"only {number} connections could be made")
        answered(target.rank())


def _storm(target: Target) -> None:
    def knock(_: int) -> None:
        with contextlib.suppress(OSError), target.connection():
            pass

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(knock, range(2000)))


@contextlib.contextmanager
def _crowded(
    target: Target,
    count: int,
    sent: bytes,
    files: int | None = None,
    more: Mapping[str, str] = MappingProxyType({}),
) -> Iterator[Server]:
    """A server of our own that may have at most `files` open files, with `count` connections that
    have each sent `sent`. Afterwards it goes on, and has shown no stack trace."""

    def lower() -> None:
        if files is not None:
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))

    with target.start(more, preexec_fn=lower) as server:
        server.ready()
        with contextlib.ExitStack() as stack:
            for _ in range(count):
                with contextlib.suppress(OSError):
                    address = ("127.0.0.1", server.port)
                    stack.enter_context(socket.create_connection(address, timeout=5)).sendall(sent)
            yield server
        for _ in range(5):
            answered(server.rank(ranking()))
        expect(server.stop() == 0, "no clean end")
        expect("Traceback" not in server.log, "a stack trace in the log")


def _few_descriptors(target: Target) -> None:
    with _crowded(target, 200, b"", files=64) as server:
        answered(server.rank(ranking()))


def _begun(announced: int, sent: int) -> bytes:
    """The start of a request whose body has `announced` bytes, of which `sent` are sent."""
    head = "POST /v1/ranking HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
    return f"{head}Content-Length: {announced}\r\n\r\n".encode() + b" " * sent


def _all_connections_taken(target: Target) -> None:
    """Unfinished bodies take every connection: probes are answered, other requests get 503."""
    with _crowded(target, 60, _begun(100, 1), files=64) as server:
        for path in ("/v1/health/live", "/v1/health/ready") * 10:
            found = server.status(path)
            expect(found == 200, f"{path} gave {found}")
        refused = server.rank(ranking())
        expect(refused.status_code == 503, f"a request got {refused.status_code}")
        expect(refused.headers.get("retry-after") == "1", "no Retry-After")
        expect(refused.json()["object"] == "error", refused.text)


def _all_body_room_taken(target: Target) -> None:
    """Unfinished large bodies take all the memory for bodies, except the reserve for small ones."""
    limit = 34_000_000  # eight of them exceed the smallest budget for bodies
    given = {"NIM_HTTP_BODY_LIMIT_BYTES": str(limit)}
    with _crowded(target, 10, _begun(limit, limit - 1000), more=given) as server:
        expect(server.status("/v1/health/live") == 200, "not live")
        answered(server.rank(ranking()))


def _few_memory(target: Target) -> None:
    """With no memory left, only a large request fails; with more memory, it works again."""
    large = ranking(*("word " * 200 + str(i) for i in range(64)), truncate="END")
    with target.start({"RERANK_MAX_PASSAGES": "512"}) as server:
        answered(server.ready().rank(ranking()))
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        limits = (server.virtual_bytes() + (4 << 20), resource.RLIM_INFINITY)
        resource.prlimit(server.process.pid, resource.RLIMIT_AS, limits)
        with contextlib.suppress(httpx.TransportError):
            found = server.rank(large).status_code
            expect(found in (200, 500, 503, 504), f"found {found} without memory")
        resource.prlimit(server.process.pid, resource.RLIMIT_AS, unlimited)
        expect(server.process.poll() is None, "the process ended without memory")
        answered(server.rank(ranking()))
        answered(server.rank(large))


def _nothing_is_kept(target: Target) -> None:
    """500 failing requests leave no memory, thread or descriptor behind."""
    own = target.inspected()
    for _ in range(100):
        target.send(b"{" * 1000)
    before = own.resident_bytes(), own.threads(), own.descriptors()
    for number in range(500):
        target.send(b'{"query": {"text": "' + b"x" * 50_000 + b'"}, "passages": 1}')
        if number % 50 == 0:
            _hangs_up_early(0.9, target)
        target.rank("")
    time.sleep(0.5)
    grown = own.resident_bytes() - before[0]
    expect(grown < 32 << 20, f"{grown >> 20} MiB more after requests that failed")
    expect(own.threads() <= before[1] + 2, f"{own.threads()} threads, were {before[1]}")
    expect(own.descriptors() <= before[2] + 2, f"{own.descriptors()} files, were {before[2]}")


def _others_during_a_large_body(target: Target) -> None:
    """While bodies at the limit are read and decoded, small requests are answered."""
    text = b"lorem ipsum " * (target.body_limit_bytes // 12 - 20)
    large = b'{"query": {"text": "q"}, "passages": [{"text": "' + text + b'"}]}'
    watch = Stopwatch(target)
    with ThreadPoolExecutor(2) as pool:
        sent = [pool.submit(target.send, large) for _ in range(2)]
        longest_s = watch.longest(lambda: target.http.get("/v1/health/live"), sent)
    watch.expect(_HEALTH_S, "health", longest_s)


_QUARTERS = {"in the head": 0.1, "in the body": 0.9}

FAULTS: tuple[Fault, ...] = (
    Fault(_LOAD, "200 requests at once", _burst),
    Fault(_LOAD, "a queue full of passages", _full_queue),
    Fault(_LOAD, "a queue full of tokens", _full_of_tokens),
    Fault(_LOAD, "small requests beside a large one", _small_beside_large),
    Fault(_LOAD, "cannot be in time", _cannot_be_in_time),
    Fault(_LOAD, "a deadline that passes", _deadline_passes),
    Fault(_LOAD, "a client hangs up while it waits", _hangs_up_while_waiting),
    *(
        Fault(_LOAD, f"a client hangs up {where}", partial(_hangs_up_early, part))
        for where, part in _QUARTERS.items()
    ),
    Fault(_LOAD, "clients reset", partial(_hangs_up_early, 1.0, resets=True)),
    Fault(_LOAD, "a head that drips", _slow_head),
    Fault(_LOAD, "a body that drips", _slow_body),
    Fault(_LOAD, "100 slow clients and another one", _slow_clients_and_others),
    Fault(_LOAD, "a client that does not read", _slow_reader),
    Fault(_LOAD, "large bodies and health", _others_during_a_large_body),
    Fault(_LOAD, "10000 idle connections", _idle),
    Fault(_LOAD, "2000 connections in a storm", _storm),
    Fault(_SCARCE, "64 file descriptors", _few_descriptors),
    Fault(_SCARCE, "bodies that do not end take every connection", _all_connections_taken),
    Fault(_SCARCE, "bodies that do not end take all room for bodies", _all_body_room_taken),
    Fault(_SCARCE, "no memory left", _few_memory),
    Fault(_SCARCE, "failed requests leave nothing behind", _nothing_is_kept),
)
