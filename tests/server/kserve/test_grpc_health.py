"""grpc.health.v1 on gRPC's port, as bytes on the wire: a status is field 1, a varint."""

import contextlib
import json
import threading
from collections.abc import Iterator

import grpc
import pytest

from checks.ports import free_port
from server.kserve import grpc_health
from server.service import Service
from tests.server.conftest import GUARDED
from tests.server.figures import figures
from tests.server.in_process import InProcess, Serve, in_process
from tests.waiting import PATIENCE_S, wait_until

CHECK, WATCH = "/grpc.health.v1.Health/Check", "/grpc.health.v1.Health/Watch"
SERVING, NOT_SERVING, SERVICE_UNKNOWN = b"\x08\x01", b"\x08\x02", b"\x08\x03"
KSERVE = "inference.GRPCInferenceService"
MOCK = {"ENABLE_MOCK_INFERENCE": "1"}


def named(service: str) -> bytes:
    """A HealthCheckRequest."""
    name = service.encode()
    return b"\x0a" + bytes([len(name)]) + name if name else b""


@contextlib.contextmanager
def refused(code: grpc.StatusCode, words: str | None = None) -> Iterator[None]:
    with pytest.raises(grpc.RpcError, match=words) as caught:
        yield
    assert caught.value.code() is code  # type: ignore[attr-defined]


class Probe:
    """A server in this process, and a channel to it."""

    def __init__(self, server: InProcess, address: str, channel: grpc.Channel) -> None:
        self.server = server
        self.address = address
        self._channel = channel

    def check(self, message: bytes = b"", method: str = CHECK) -> bytes:
        found = self._channel.unary_unary(method)(message, timeout=PATIENCE_S)
        assert isinstance(found, bytes)
        return found

    def watch(self, message: bytes = b"") -> grpc.Call:
        return self._channel.unary_stream(WATCH)(message, timeout=PATIENCE_S)

    def stall(self, calls: int, over: threading.Event) -> list[grpc.Future]:
        """Calls of Check whose message never comes."""

        def nothing() -> Iterator[bytes]:
            over.wait()
            yield from ()

        return [self._channel.stream_unary(CHECK).future(nothing()) for _ in range(calls)]


@pytest.fixture
def probe(serve: Serve, request: pytest.FixtureRequest) -> Iterator[Probe]:
    port = free_port()
    given = getattr(request, "param", MOCK)
    server = serve({**given, "NIM_TRITON_GRPC_PORT": str(port)})
    address = f"127.0.0.1:{port}"
    with grpc.insecure_channel(address) as channel:
        yield Probe(server, address, channel)


@pytest.mark.parametrize("probe", [MOCK, GUARDED], indirect=True)
def test_whether_the_server_serves(probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    """No key is asked for."""
    for service in ("", KSERVE):
        assert probe.check(named(service)) == SERVING
    with refused(grpc.StatusCode.NOT_FOUND, KSERVE):
        probe.check(named("inference.Another"))
    with monkeypatch.context() as patch:
        patch.setattr(Service, "ready", property(lambda _: False))
        assert probe.check() == probe.check(named(KSERVE)) == NOT_SERVING
        with refused(grpc.StatusCode.NOT_FOUND):
            probe.check(named("inference.Another"))


@pytest.mark.parametrize("probe", [GUARDED], indirect=True)
def test_a_watch_tells_every_change(probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_health, "_LOOK_S", 0.01)
    stream = probe.watch(named(KSERVE))
    assert next(stream) == SERVING
    with monkeypatch.context() as patch:
        patch.setattr(Service, "ready", property(lambda _: False))
        assert next(stream) == NOT_SERVING
    assert next(stream) == SERVING
    stream.cancel()


@pytest.mark.parametrize(("service", "served"), [(KSERVE, True), ("inference.Another", False)])
def test_grpc_s_own_clients_watch(probe: Probe, service: str, served: bool) -> None:
    """Those that choose among servers by their health."""
    config = {
        "loadBalancingConfig": [{"round_robin": {}}],
        "healthCheckConfig": {"serviceName": service},
    }
    options = [("grpc.service_config", json.dumps(config))]
    with grpc.insecure_channel(probe.address, options=options) as channel:
        live = channel.unary_unary(f"/{KSERVE}/ServerLive")
        if served:
            assert live(b"", timeout=PATIENCE_S)
        else:
            with refused(grpc.StatusCode.UNAVAILABLE):
                live(b"", timeout=PATIENCE_S)


def test_a_watch_of_an_unknown_service_goes_on(probe: Probe) -> None:
    stream = probe.watch(named("inference.Another"))
    assert next(stream) == SERVICE_UNKNOWN
    assert stream.is_active()
    stream.cancel()


def test_watches_end_with_the_server() -> None:
    """Which waits for nobody: else for as long as requests have to end."""
    port = free_port()
    given = {"NIM_TRITON_GRPC_PORT": str(port), "RERANK_DRAIN_TIMEOUT_S": "3600"}
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        with in_process({**MOCK, **given}):
            stream = channel.unary_stream(WATCH)(b"", timeout=PATIENCE_S)
            assert next(stream) == SERVING
        assert list(stream) in ([], [NOT_SERVING])
        assert stream.code() is grpc.StatusCode.OK


def test_watches_have_a_number(probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grpc_health, "_MOST_WATCHES", 2)
    held = [probe.watch(), probe.watch()]
    assert [next(one) for one in held] == [SERVING] * 2
    with refused(grpc.StatusCode.RESOURCE_EXHAUSTED, "2 Watch streams"):
        next(probe.watch())
    assert probe.check() == SERVING
    held[0].cancel()

    def again() -> bool:
        with contextlib.suppress(grpc.RpcError):
            return next(probe.watch()) == SERVING
        return False

    wait_until(again)


@pytest.mark.parametrize("probe", [GUARDED], indirect=True)
def test_calls_without_a_message_keep_no_probe_out(probe: Probe) -> None:
    over = threading.Event()
    held = probe.stall(200, over)
    try:
        assert [probe.check() for _ in range(5)] == [SERVING] * 5
        wait_until(lambda: sum(one.done() for one in held) >= 200 - 8)
    finally:
        over.set()


@pytest.mark.parametrize("message", [b"\xff" * 9, b"\x0a\x02\xff\xff", b"\x0a\x05abc"])
def test_what_is_no_request(probe: Probe, message: bytes) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "no HealthCheckRequest"):
        probe.check(message)


@pytest.mark.parametrize("message", [bytes(2000), b"\x78\x00" * 1000])
def test_a_long_message_is_not_parsed(probe: Probe, message: bytes) -> None:
    with refused(grpc.StatusCode.INVALID_ARGUMENT, "2000 bytes, wanted at most 1024"):
        probe.check(message)


def test_other_methods_are_not_served(probe: Probe) -> None:
    with refused(grpc.StatusCode.UNIMPLEMENTED):
        probe.check(method="/grpc.health.v1.Health/Other")


def test_checks_are_counted_and_watches_are_not(probe: Probe) -> None:
    probe.check()
    stream = probe.watch()
    next(stream)
    stream.cancel()
    counted = 'request_count_total{route="grpc Check",status="OK"}'
    wait_until(lambda: figures(probe.server).get(counted) == 1)
    assert not any("grpc Watch" in name for name in figures(probe.server))
