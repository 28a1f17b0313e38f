"""Every port listens on the same addresses, told by what can be connected to."""

import asyncio
import errno
import socket

import grpc.aio
import pytest

from checks.ports import free_ports
from server import addresses
from server.addresses import addresses_of
from server.kserve.grpc_service import GrpcServer
from server.listen import bind_port
from server.service import Service
from server.settings import SettingsError, read_settings
from tests.server.conftest import Start
from tests.server.in_process import Serve
from tests.waiting import PATIENCE_S

IPV4, IPV6 = "127.0.0.1", "::1"


def has_ipv6() -> bool:
    try:
        addresses.bind(IPV6, 0).close()
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6")


def answering(port: int) -> set[str]:
    """Which of this machine's own addresses take a connection to `port`."""
    found = set()
    for address in (IPV4, IPV6):
        try:
            socket.create_connection((address, port), PATIENCE_S).close()
            found.add(address)
        except OSError:
            continue
    return found


HOSTS = [
    pytest.param("0.0.0.0", {IPV4}),
    pytest.param("127.0.0.1", {IPV4}),
    pytest.param("[::]", {IPV4, IPV6}, marks=needs_ipv6),
    pytest.param("[::1]", {IPV6}, marks=needs_ipv6),
    pytest.param("[::ffff:127.0.0.1]", {IPV4}, marks=needs_ipv6),
    pytest.param("[::ffff:0.0.0.0]", {IPV4}, marks=needs_ipv6),
]


@pytest.mark.parametrize(("host", "wanted"), HOSTS)
def test_all_ports_listen_on_the_same_addresses(serve: Serve, host: str, wanted: set[str]) -> None:
    api, *others = free_ports(4)
    named = ("NIM_TRITON_METRICS_PORT", "NIM_TRITON_GRPC_PORT", "NIM_HTTP_TRITON_PORT")
    given = dict(zip(named, map(str, others), strict=True))
    server = serve({"ENABLE_MOCK_INFERENCE": "1", "NIM_BIND_ADDR": f"{host}:{api}", **given})
    taken = bind_port(server.settings.host, server.settings.port, "NIM_HTTP_API_PORT")
    try:
        assert [answering(port) for port in (api, *others)] == [wanted] * 4
    finally:
        for one in taken:
            one.close()


def test_a_name_is_listened_on_at_all_its_addresses_here(serve: Serve) -> None:
    """Which ones, the machine says; HTTP and gRPC agree."""
    metrics, grpc = free_ports(2)
    ports = {"NIM_TRITON_METRICS_PORT": str(metrics), "NIM_TRITON_GRPC_PORT": str(grpc)}
    serve({"ENABLE_MOCK_INFERENCE": "1", "NIM_BIND_ADDR": "localhost:1", **ports})
    assert answering(metrics) == answering(grpc) == set(addresses_of("localhost"))


def test_a_name_with_several_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that is none of this machine's does not count; the others all do."""
    stream = (socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
    found = [
        (socket.AF_INET, *stream, ("127.0.0.1", 0)),
        (socket.AF_INET, *stream, ("192.0.2.1", 0)),  # of documentation only (RFC 5737)
        (socket.AF_INET, *stream, ("127.0.0.1", 0)),
        (socket.AF_INET, *stream, ("127.0.0.2", 0)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    assert addresses_of("several") == ["127.0.0.1", "127.0.0.2"]


@pytest.mark.parametrize(
    "host", ["192.0.2.1", "no such host", "x" * 100, "2001:db8::1", "256.1.1.1"]
)
def test_a_host_of_elsewhere_is_refused(host: str) -> None:
    with pytest.raises(SettingsError, match=r"^NIM_BIND_ADDR: found the host .*wanted 0\.0\.0\.0 "):
        addresses_of(host)


def test_a_machine_without_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing but what asks for it minds."""
    made = socket.socket

    def without(family: int = socket.AF_INET, *rest: int) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return made(family, *rest)

    monkeypatch.setattr(socket, "socket", without)
    assert addresses_of("0.0.0.0") == ["0.0.0.0"]
    assert addresses_of("localhost") in (["127.0.0.1"], [])
    with addresses.only_at("0.0.0.0", 1):
        pass
    with pytest.raises(SettingsError, match=r"^NIM_BIND_ADDR: "):
        addresses_of("::")


@needs_ipv6
def test_connections_that_ended_lately_do_not_open_grpc_to_ipv6() -> None:
    """Their addresses stay taken for a minute, of a port that nobody listens at."""
    with addresses.bind(IPV6, 0) as before:
        before.listen()
        port = before.getsockname()[1]
        with socket.create_connection((IPV6, port), PATIENCE_S) as caller:
            before.accept()[0].close()  # who closes first keeps the address
            assert caller.recv(1) == b""

    async def serve() -> set[str]:
        grpc_server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        with addresses.only_at("0.0.0.0", port):
            grpc_server.add_insecure_port(f"0.0.0.0:{port}")
        await grpc_server.start()
        try:
            return answering(port)
        finally:
            await grpc_server.stop(0)

    assert asyncio.run(serve()) == {IPV4}


def test_want_of_sockets_is_no_want_of_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(socket, "socket", refuse)
    with pytest.raises(OSError, match="Too many"), addresses.only_at("0.0.0.0", 1):
        pass


def test_a_port_that_is_taken_at_one_of_the_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    (port,) = free_ports(1)
    monkeypatch.setattr("server.listen.addresses_of", lambda _: ["127.0.0.1", "127.0.0.2"])
    with addresses.bind("127.0.0.2", port) as other:
        other.listen()
        with pytest.raises(SettingsError, match=f"NAME: found port {port} .* free on 127.0.0.2"):
            bind_port("x", port, "NAME")
    for one in bind_port("x", port, "NAME"):  # nothing of the first try is left
        one.close()


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1"])
def test_a_port_of_grpc_that_is_taken(host: str) -> None:
    async def listen(port: int) -> None:
        await GrpcServer(Service(read_settings({"ENABLE_MOCK_INFERENCE": "1"}))).start(host, port)

    (port,) = free_ports(1)
    with addresses.bind(IPV4, port) as other:
        other.listen()
        with pytest.raises(SettingsError, match=f"NIM_TRITON_GRPC_PORT: found port {port}"):
            asyncio.run(listen(port))


@needs_ipv6
def test_the_process_listens_where_the_settings_say(start: Start) -> None:
    server = start({"ENABLE_MOCK_INFERENCE": "1", "NIM_BIND_ADDR": "[::]:1"}, triton=True).ready()
    ports = (server.port, server.metrics_port, server.grpc_port, server.triton_port)
    assert [answering(port) for port in ports] == [{IPV4, IPV6}] * 4
