"""What bounds gRPC: keys before messages, calls at the same time, slow messages, pings."""

import contextlib
import socket
import struct
import threading
import time
from collections.abc import Iterator

import grpc
import httpx
import pytest

from tests.server.conftest import BODY_LIMIT_BYTES, Server
from tests.server.test_metrics import values

PREFIX = "/inference.GRPCInferenceService/"
LIVE = PREFIX + "ServerLive"
READY = PREFIX + "ServerReady"
INDEX = PREFIX + "RepositoryIndex"
_PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_SETTINGS, _PING, _GOAWAY = 4, 6, 7
_ENHANCE_YOUR_CALM = 11


@contextlib.contextmanager
def channel(server: Server) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as opened:
        yield opened


@contextlib.contextmanager
def stalled(server: Server, calls: int, method: str) -> Iterator[list[grpc.Future]]:
    """Calls whose message never comes, until the block ends."""
    over = threading.Event()

    def nothing() -> Iterator[bytes]:
        over.wait()
        yield from ()

    with channel(server) as opened:
        try:
            # Kept here: a call that nobody holds is cancelled.
            held = [opened.stream_unary(method).future(nothing()) for _ in range(calls)]
            yield held
        finally:
            over.set()


def code(server: Server, method: str, message: bytes = b"", **metadata: str) -> grpc.StatusCode:
    with channel(server) as opened:
        try:
            opened.unary_unary(method)(message, metadata=tuple(metadata.items()), timeout=20)
        except grpc.RpcError as error:
            return error.code()
    return grpc.StatusCode.OK


@pytest.mark.parametrize("method", [PREFIX + "NoSuch", PREFIX + "other", "/a.B/C", "/nonsense"])
def test_unknown_methods_ask_for_a_key(
    guarded_server: Server, mock_server: Server, method: str
) -> None:
    assert code(guarded_server, method) is grpc.StatusCode.UNAUTHENTICATED
    key = {"authorization": "Bearer key-one"}
    assert code(guarded_server, method, **key) is grpc.StatusCode.UNIMPLEMENTED
    assert code(mock_server, method) is grpc.StatusCode.UNIMPLEMENTED
    counted = 'request_count_total{route="grpc other",status="UNIMPLEMENTED"}'
    mock_server.wait_until(lambda: counted in mock_server.get("/v1/metrics").text)
    found = values(mock_server.get("/v1/metrics").text)
    assert not any("NoSuch" in sample or "nonsense" in sample for sample in found)


def test_the_key_is_asked_for_before_the_message(guarded_server: Server) -> None:
    with stalled(guarded_server, 1, INDEX) as calls:
        error = calls[0].exception(timeout=20)
    assert error.code() is grpc.StatusCode.UNAUTHENTICATED


def test_a_message_that_does_not_come_is_not_awaited_for_ever(mock_server: Server) -> None:
    """NIM_REQUEST_TIMEOUT_S is 2 there."""
    with stalled(mock_server, 1, INDEX) as calls:
        error = calls[0].exception(timeout=20)
    assert error.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "did not arrive" in error.details()


def test_bytes_that_are_no_message(mock_server: Server) -> None:
    assert code(mock_server, INDEX, b"\xff" * 9) is grpc.StatusCode.INVALID_ARGUMENT
    assert code(mock_server, INDEX, bytes(BODY_LIMIT_BYTES + 1)) is (
        grpc.StatusCode.RESOURCE_EXHAUSTED
    )
    assert code(mock_server, INDEX, long="x" * 100_000) is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert code(mock_server, INDEX) is grpc.StatusCode.OK


def test_calls_have_a_number_and_slow_ones_make_room(start: object) -> None:
    """256 at the same time; those that keep their message back give way after a second. Health is
    answered all the while."""
    server = start({"ENABLE_MOCK_INFERENCE": "1"}).ready()  # type: ignore[operator]
    with stalled(server, 300, INDEX):  # of which some are refused
        server.wait_until(lambda: code(server, INDEX) is grpc.StatusCode.UNAVAILABLE)
        assert code(server, READY) is grpc.StatusCode.OK
        assert code(server, LIVE) is grpc.StatusCode.OK
        found = values(server.get("/v1/metrics").text)
        assert found['rerank_refusals_total{reason="full"}'] >= 1
        assert httpx.get(f"{server.url}/v1/models").status_code == 200
        server.wait_until(lambda: code(server, INDEX) is grpc.StatusCode.OK)
    assert server.stop() == 0
    assert "Traceback" not in server.log


def test_connections_have_a_number(start: object) -> None:
    """A quarter of the free file descriptors; the others are HTTP's."""
    limited = "import resource, sys; from server.cli import main; {}; sys.exit(main())"
    few = limited.format("resource.setrlimit(resource.RLIMIT_NOFILE, (96, 96))")
    server = start({"ENABLE_MOCK_INFERENCE": "1"}, "-c", few).ready()  # type: ignore[operator]
    with contextlib.ExitStack() as held:
        words = 0
        for _ in range(40):
            place = ("127.0.0.1", server.grpc_port)
            raw = held.enter_context(socket.create_connection(place, timeout=20))
            with contextlib.suppress(OSError):  # one too many is closed at once
                raw.sendall(_PREFACE)
                words += bool(raw.recv(1))
        assert 4 <= words <= 24
        assert server.get("/v1/health/ready").status_code == 200
    assert server.stop() == 0


def test_pings_without_calls_end_the_connection(mock_server: Server) -> None:
    """RFC 9113 6.7 and 6.8: PING and GOAWAY; the code of abuse is ENHANCE_YOUR_CALM."""

    def frame(kind: int, payload: bytes) -> bytes:
        return struct.pack("!I", len(payload))[1:] + bytes([kind, 0]) + bytes(4) + payload

    with socket.create_connection(("127.0.0.1", mock_server.grpc_port), timeout=20) as raw:
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
