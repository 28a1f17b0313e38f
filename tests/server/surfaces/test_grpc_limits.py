"""What bounds gRPC: keys before messages, calls at the same time, slow messages, pings."""

import contextlib
import math
import socket
import struct
import threading
import time
from collections.abc import Iterator

import grpc
import pytest

from checks.ports import free_port
from server.kserve import arrivals
from tests.server.conftest import BODY_LIMIT_BYTES, GUARDED, Server, Start
from tests.server.figures import figures, refusals
from tests.server.in_process import Serve, in_process
from tests.waiting import PATIENCE_S, wait_until

PREFIX = "/inference.GRPCInferenceService/"
LIVE = PREFIX + "ServerLive"
READY = PREFIX + "ServerReady"
CHECK = "/grpc.health.v1.Health/Check"
INDEX = PREFIX + "RepositoryIndex"
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_SETTINGS, _PING, _GOAWAY = 4, 6, 7
_ENHANCE_YOUR_CALM = 11


@contextlib.contextmanager
def channel(port: int) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as opened:
        yield opened


@contextlib.contextmanager
def stalled(port: int, calls: int, method: str) -> Iterator[list[grpc.Future]]:
    """Calls whose message never comes, until the block ends."""
    over = threading.Event()

    def nothing() -> Iterator[bytes]:
        over.wait()
        yield from ()

    with channel(port) as opened:
        try:
            # Kept here: a call that nobody holds is cancelled.
            held = [opened.stream_unary(method).future(nothing()) for _ in range(calls)]
            yield held
        finally:
            over.set()


def code(port: int, method: str, message: bytes = b"", **metadata: str) -> grpc.StatusCode:
    with channel(port) as opened:
        try:
            opened.unary_unary(method)(
                message, metadata=tuple(metadata.items()), timeout=PATIENCE_S
            )
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK


@pytest.fixture(scope="module")
def guarded_port() -> Iterator[int]:
    """gRPC's port of a server that asks for a key."""
    port = free_port()
    with in_process({**GUARDED, "NIM_TRITON_GRPC_PORT": str(port)}):
        yield port


@pytest.mark.parametrize("method", [PREFIX + "NoSuch", PREFIX + "other", "/a.B/C", "/nonsense"])
def test_unknown_methods_ask_for_a_key(guarded_port: int, mock_server: Server, method: str) -> None:
    assert code(guarded_port, method) is grpc.StatusCode.UNAUTHENTICATED
    key = {"authorization": "Bearer key-one"}
    assert code(guarded_port, method, **key) is grpc.StatusCode.UNIMPLEMENTED
    assert code(mock_server.grpc_port, method) is grpc.StatusCode.UNIMPLEMENTED
    counted = 'request_count_total{route="grpc other",status="UNIMPLEMENTED"}'
    mock_server.wait_until(lambda: counted in figures(mock_server))
    assert not any("NoSuch" in name or "nonsense" in name for name in figures(mock_server))


def test_the_key_is_asked_for_before_the_message(guarded_port: int) -> None:
    with stalled(guarded_port, 1, INDEX) as calls:
        error = calls[0].exception(timeout=PATIENCE_S)
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED


def test_a_message_that_does_not_come_is_not_awaited_for_ever(hasty: Server) -> None:
    with stalled(hasty.grpc_port, 1, INDEX) as calls:
        error = calls[0].exception(timeout=PATIENCE_S)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "did not arrive" in error.details()


def test_bytes_that_are_no_message(mock_server: Server) -> None:
    port, too_large = mock_server.grpc_port, grpc.StatusCode.RESOURCE_EXHAUSTED
    assert code(port, INDEX, b"\xff" * 9) is grpc.StatusCode.INVALID_ARGUMENT
    assert code(port, INDEX, bytes(BODY_LIMIT_BYTES + 1)) is too_large
    assert code(port, INDEX, long="x" * 100_000) is too_large
    assert code(port, INDEX) is grpc.StatusCode.OK


def test_calls_have_a_number_and_slow_ones_make_room(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """256 at the same time; those that keep their message back give way after a while. Health is
    answered all the while."""
    monkeypatch.setattr(arrivals, "_SLOW_S", math.inf)
    port = free_port()
    given = {"NIM_TRITON_GRPC_PORT": str(port), "NIM_REQUEST_TIMEOUT_S": "3600"}
    server = serve({"ENABLE_MOCK_INFERENCE": "1", **given})
    with stalled(port, 300, INDEX) as calls:
        wait_until(lambda: refusals(server).get("full", 0) >= 300 - 256)
        assert code(port, INDEX) is grpc.StatusCode.UNAVAILABLE
        assert refusals(server) == {"full": 300 - 256 + 1}
        assert code(port, READY) is grpc.StatusCode.OK
        assert code(port, LIVE) is grpc.StatusCode.OK
        assert code(port, CHECK) is grpc.StatusCode.OK
        assert server.get("/v1/models").status_code == 200
        monkeypatch.setattr(arrivals, "_SLOW_S", 0.0)
        next(call for call in calls if not call.done()).cancel()
        wait_until(lambda: code(port, INDEX) is grpc.StatusCode.OK)


def test_connections_have_a_number(start: Start) -> None:
    """A quarter of the free file descriptors; the others are HTTP's."""
    limited = "import resource, sys; from server.cli import main; {}; sys.exit(main())"
    few = limited.format("resource.setrlimit(resource.RLIMIT_NOFILE, (96, 96))")
    server = start({"ENABLE_MOCK_INFERENCE": "1"}, "-c", few).ready()
    with contextlib.ExitStack() as held:
        words = 0
        for _ in range(40):
            place = ("127.0.0.1", server.grpc_port)
            raw = held.enter_context(socket.create_connection(place, timeout=PATIENCE_S))
            with contextlib.suppress(OSError):  # one too many is closed at once
                raw.sendall(_PREFACE)
                words += bool(raw.recv(1))
        assert 4 <= words <= 24
        assert server.get("/v1/health/ready").status_code == 200


def test_pings_without_calls_end_the_connection(mock_server: Server) -> None:
    """RFC 9113 6.7 and 6.8: PING and GOAWAY; the code of abuse is ENHANCE_YOUR_CALM."""

    def frame(kind: int, payload: bytes) -> bytes:
        return struct.pack("!I", len(payload))[1:] + bytes([kind, 0]) + bytes(4) + payload

    with socket.create_connection(("127.0.0.1", mock_server.grpc_port), timeout=PATIENCE_S) as raw:
        raw.sendall(_PREFACE + frame(_SETTINGS, b""))
        read = raw.makefile("rb")
        while True:
            with contextlib.suppress(OSError):
                raw.sendall(frame(_PING, bytes(8)))
            head = read.read(9)
            assert len(head) == 9, "the connection ended without a word"
            payload = read.read(int.from_bytes(head[:3]))
            if head[3] == _GOAWAY:
                break
            time.sleep(0.001)
    assert int.from_bytes(payload[4:8]) == _ENHANCE_YOUR_CALM
