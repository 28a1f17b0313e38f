"""Connections have limits: slow heads, too many of them, bytes that are no HTTP; TLS and hosts."""

import asyncio
import contextlib
import json
import select
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import httpx
import pytest
import uvicorn
from litestar.types import Receive, Scope, Send

from server import protocol
from server.kserve.messages import Messages
from server.listen import connection_options
from server.protocol import BoundedProtocol
from server.settings import SettingsError, read_settings
from tests.server.conftest import Server, Start
from tests.server.in_process import Serve
from tests.waiting import PATIENCE_S, wait_until

HOUR_S = 3600.0
MOCK = {"ENABLE_MOCK_INFERENCE": "1"}
BODY = {"query": {"text": "q"}, "passages": [{"text": "p"}]}


def connect(server: Any) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE_S)


def everything(connection: socket.socket) -> bytes:
    received = b""
    while part := connection.recv(65536):
        received += part
    return received


def send_head(connection: socket.socket, method: str, path: str, *headers: str) -> None:
    lines = (f"{method} {path} HTTP/1.1", "host: x", *headers, "", "")
    connection.sendall("\r\n".join(lines).encode())


def status(connection: socket.socket) -> int:
    return int(connection.recv(65536).split()[1])


def test_bytes_that_are_no_http_are_answered_in_json(mock_server: Server) -> None:
    with connect(mock_server) as connection:
        connection.sendall(b"\x16\x03\x01\x02\x00\r\n\r\n")
        received = everything(connection)
    head, _, body = received.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 400")
    assert json.loads(body)["object"] == "error"


def test_hosts(serve: Serve) -> None:
    server = serve({**MOCK, "RERANK_ALLOWED_HOSTS": "127.0.0.1,Rank.me"})
    for host, wanted in {"rank.me": 200, "RANK.ME:80": 200, "evil.example": 400, "": 400}.items():
        named = {"host": host}
        assert server.http.get("/v1/models", headers=named).status_code == wanted, host
        assert server.http.get("/v1/health/ready", headers=named).status_code == 200, host


def test_plain_uvicorn_shares_out_its_file_descriptors(start: Start) -> None:
    code = (
        "import resource, uvicorn; resource.setrlimit(resource.RLIMIT_NOFILE, (64, 96)); "
        "uvicorn.main()"
    )
    options = ["--factory", "server.app:create_app", "--port", "{port}"]
    options += ["--http", "server.protocol:BoundedProtocol"]
    server = start(MOCK, "-c", code, *options).ready()
    assert (
        "process_max_fds 96.0"
        in httpx.get(server.metrics_url + "/metrics", timeout=PATIENCE_S).text
    )
    slow = b"POST /v1/ranking HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{"
    with contextlib.ExitStack() as stack:
        for _ in range(120):
            stack.enter_context(connect(server)).sendall(slow)
        with connect(server) as probe:
            send_head(probe, "GET", "/v1/health/live")
            assert status(probe) == 200
        assert httpx.get(server.metrics_url + "/metrics", timeout=PATIENCE_S).status_code == 200
    assert "Too many open files" not in server.log


class FourPlaces:
    """A listener with room for four connections, each of which has an hour for a head. Requests
    are answered when `over` is set, those for health at once; `running` counts the others, and
    `received` the bytes that came."""

    def __init__(self) -> None:
        self.running = self.received = 0
        self.over = asyncio.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]
        self._server = uvicorn.Server(
            uvicorn.Config(
                self._answer,
                http=self._protocol,  # type: ignore[arg-type]
                ws="none",
                interface="asgi3",
                lifespan="off",
                timeout_keep_alive=2 * int(HOUR_S),
                log_config=None,
                proxy_headers=False,
            )
        )
        self._skipped_s = 0.0
        self._loop = asyncio.new_event_loop()
        self._loop.time = lambda: time.monotonic() + self._skipped_s  # type: ignore[method-assign]
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _protocol(self, *given: Any, **named: Any) -> BoundedProtocol:
        def read(data: bytes) -> None:
            data_received(data)
            self.received += len(data)

        protocol = BoundedProtocol(*given, most_connections=4, header_timeout_s=HOUR_S, **named)
        data_received, protocol.data_received = protocol.data_received, read  # type: ignore[method-assign]
        return protocol

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._server.serve(sockets=[self._socket]))

    def end(self) -> None:
        self.answer_all()
        self._server.should_exit = True
        self._thread.join()

    def begin_to_stop(self) -> None:
        """Return when idle connections have been told to close, and the loop has gone on."""
        self._server.should_exit = True
        wait_until(lambda: self._socket.fileno() == -1)
        asyncio.run_coroutine_threadsafe(self._turn(), self._loop).result(PATIENCE_S)

    async def _turn(self) -> None:
        for _ in range(10):
            await asyncio.sleep(0)

    def pass_time(self, seconds: float) -> None:
        """Before anything that comes after."""

        def skip() -> None:
            self._skipped_s += seconds

        self._loop.call_soon_threadsafe(skip)

    def answer_all(self) -> None:
        self._loop.call_soon_threadsafe(self.over.set)

    def wait_for(self, running: int) -> None:
        wait_until(lambda: self.running >= running)

    def take(self, connection: socket.socket, data: bytes) -> None:
        """Return when these bytes have been read."""
        before = self.received
        connection.sendall(data)
        wait_until(lambda: self.received == before + len(data))

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["path"] != "/v1/health/live":
            self.running += 1
            await self.over.wait()
            self.running -= 1
        headers = [(b"content-length", b"0")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b"", "more_body": False})


@pytest.fixture
def four_places() -> Iterator[FourPlaces]:
    listener = FourPlaces()
    yield listener
    listener.end()


def test_a_head_that_drips_is_cut_off(four_places: FourPlaces) -> None:
    with connect(four_places) as connection:
        four_places.take(connection, b"GET /v1/health/live HTTP/1.1\r\nhost: ")
        for _ in range(6):
            four_places.take(connection, b"x")
            four_places.pass_time(HOUR_S / 6)
        assert everything(connection).startswith(b"HTTP/1.1 408")


def test_a_second_head_that_drips_is_cut_off(four_places: FourPlaces) -> None:
    with connect(four_places) as connection:
        four_places.take(connection, b"GET /v1/health/live HTTP/1.1\r\nhost: x\r\n\r\nGET /v1/hea")
        assert status(connection) == 200
        four_places.pass_time(HOUR_S)
        assert everything(connection).startswith(b"HTTP/1.1 408")


def test_a_connection_without_a_request_is_closed(four_places: FourPlaces) -> None:
    with connect(four_places) as connection, connect(four_places) as other:
        four_places.take(other, b"G")  # the one before has been accepted by then
        four_places.pass_time(HOUR_S)
        assert everything(connection) == b""


def test_the_setting_says_how_long_a_head_may_take() -> None:
    settings = read_settings({**MOCK, "RERANK_HEADER_TIMEOUT_S": "7"})
    assert connection_options(settings)["http"].keywords["header_timeout_s"] == 7


def test_silent_connections_do_not_lift_the_limit(four_places: FourPlaces) -> None:
    with contextlib.ExitStack() as held:
        for number in range(12):
            held.enter_context(connect(four_places))
            busy = held.enter_context(connect(four_places))
            send_head(busy, "POST", "/v1/ranking")
            if number < 4:
                four_places.wait_for(number + 1)
            else:
                assert status(busy) == 503
        assert four_places.running == 4


def take_all(server: FourPlaces, held: contextlib.ExitStack, *headers: str) -> list[socket.socket]:
    taken = [held.enter_context(connect(server)) for _ in range(4)]
    for connection in taken:
        send_head(connection, "POST", "/v1/ranking", *headers)
    server.wait_for(4)
    return taken


def test_bodies_that_drip_do_not_keep_probes_out(four_places: FourPlaces) -> None:
    """Every connection is taken by a body that does not end: probes are answered at once, others
    are told to come back, and are answered when the bodies have had their time."""
    with contextlib.ExitStack() as held:
        taken = take_all(four_places, held, "content-length: 100")
        for _ in range(20):
            with connect(four_places) as probe:
                send_head(probe, "GET", "/v1/health/live")
                assert status(probe) == 200
        with connect(four_places) as refused:
            send_head(refused, "POST", "/v1/ranking")
            head, _, body = everything(refused).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 503")
        assert b"\r\nretry-after: 1\r\n" in head
        assert json.loads(body)["object"] == "error"
        four_places.pass_time(HOUR_S)
        later = held.enter_context(connect(four_places))
        send_head(later, "POST", "/v1/ranking")
        four_places.wait_for(5)
        assert {status(one) for one in select.select(taken, [], [], 0)[0]} == {408}
        four_places.answer_all()
        assert status(later) == 200


def test_a_probe_may_take_its_time(four_places: FourPlaces) -> None:
    """Those that come between its connection and its head do not take its place."""
    with contextlib.ExitStack() as held:
        take_all(four_places, held)
        probe = held.enter_context(connect(four_places))
        for _ in range(5):
            late = held.enter_context(connect(four_places))
            send_head(late, "POST", "/v1/ranking")
            assert status(late) == 503
        send_head(probe, "GET", "/v1/health/live")
        assert status(probe) == 200
        assert four_places.running == 4


def test_a_connection_for_health_is_one_for_all_when_there_is_room(four_places: FourPlaces) -> None:
    with contextlib.ExitStack() as held:
        taken = take_all(four_places, held)
        probe = held.enter_context(connect(four_places))
        send_head(probe, "GET", "/v1/health/live")
        assert status(probe) == 200
        four_places.answer_all()
        assert [status(connection) for connection in taken] == [200] * 4
        send_head(probe, "POST", "/v1/ranking")
        assert status(probe) == 200


def test_a_connection_made_as_the_server_stops_may_bring_its_request(
    four_places: FourPlaces, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is answered, then closed, while another request still runs."""
    monkeypatch.setattr(protocol, "_FIRST_REQUEST_GRACE_S", HOUR_S / 2)
    with connect(four_places) as late, connect(four_places) as running:
        send_head(running, "POST", "/v1/ranking")
        four_places.wait_for(1)
        four_places.begin_to_stop()
        send_head(late, "GET", "/v1/health/live")
        assert status(late) == 200
        four_places.pass_time(HOUR_S / 2)
        assert everything(late) == b""
        assert four_places.running == 1


def test_listeners_leave_each_other_descriptors(start: Start) -> None:
    """With as many connections as each port takes, a new one to each is accepted."""
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_NOFILE, (128, 128)); "
        "from server.cli import main; sys.exit(main())"
    )
    server = start(MOCK, "-c", code).ready()
    with contextlib.ExitStack() as idle:
        for port in (server.metrics_port, server.grpc_port, server.port):
            for _ in range(100):
                idle.enter_context(
                    socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)
                )
        for url in (server.url, server.metrics_url):
            assert httpx.get(f"{url}/metrics", timeout=PATIENCE_S).status_code in (200, 404)
        assert server.rank(BODY).status_code == 200
    assert "Too many open files" not in server.log
    assert "Traceback" not in server.log


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate for 127.0.0.1 and its key."""
    folder = tmp_path_factory.mktemp("tls")
    chain, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-keyout", key, "-out", chain, "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    return chain, key


def test_all_ports_speak_tls(start: Start, certificate: tuple[Path, Path]) -> None:
    chain, key = certificate
    server = start({**MOCK, "NIM_TLS_CERT_PATH": str(chain), "NIM_TLS_KEY_PATH": str(key)})
    trust = ssl.create_default_context(cafile=str(chain))
    url = server.url.replace("http:", "https:")
    server.http = httpx.Client(base_url=url, verify=trust, timeout=PATIENCE_S)

    def ready() -> bool:
        with contextlib.suppress(httpx.TransportError):
            return server.get("/v1/health/ready").status_code == 200
        return False

    server.wait_until(ready)
    assert server.rank(BODY).status_code == 200
    metrics = server.metrics_url.replace("http:", "https:") + "/metrics"
    assert httpx.get(metrics, verify=trust, timeout=PATIENCE_S).status_code == 200
    credentials = grpc.ssl_channel_credentials(chain.read_bytes())
    messages = Messages()
    with grpc.secure_channel(f"localhost:{server.grpc_port}", credentials) as channel:
        live = channel.unary_unary(
            "/inference.GRPCInferenceService/ServerLive",
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=messages["ServerLiveResponse"].FromString,
        )
        assert live(messages["ServerLiveRequest"](), timeout=PATIENCE_S).live
    with pytest.raises(httpx.TransportError):
        httpx.get(server.url + "/v1/health/live", timeout=PATIENCE_S)
    assert server.stop() == 0


@pytest.mark.parametrize("given", ["alone", "swapped"])
def test_a_certificate_that_cannot_be_used(certificate: tuple[Path, Path], given: str) -> None:
    chain, key = certificate
    settings = {"NIM_TLS_CERT_PATH": str(chain)}
    if given == "swapped":
        settings = {"NIM_TLS_CERT_PATH": str(key), "NIM_TLS_KEY_PATH": str(chain)}
    with pytest.raises(SettingsError, match=r"^NIM_TLS_CERT_PATH: found "):
        connection_options(read_settings({**MOCK, **settings}))
