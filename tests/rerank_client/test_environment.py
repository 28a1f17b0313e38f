"""Certificates and proxies of the environment: obeyed, or a RerankError."""

import socket
import ssl
from pathlib import Path
from typing import Any

import pytest

from rerank_client import AsyncRerankClient, RerankClient, RerankError
from tests.rerank_client.conftest import MakeAsker
from tests.rerank_client.scripted_server import Say, ScriptedServer, ranking

QUERY = "which one?"
DOCUMENTS = ["first", "second", "third"]
GOOD = ranking([0.45, 0.85, -0.12])
NAME = "reranker.invalid"
NOBODY = f"http://{NAME}"

both = pytest.mark.parametrize("make", [RerankClient, AsyncRerankClient])


@both
@pytest.mark.parametrize(
    "proxy",
    [
        "http://[::1",
        "http://h:port",
        "garbage://h",
        "http://\udcff",
        "socks5://h",
        "://",
        "http://",
        "http://h:0",
        "http://h:99999",
        "http://user:sec#ret@h",
    ],
)
def test_a_proxy_that_is_none_is_an_error_when_the_client_is_made(
    make: type, monkeypatch: pytest.MonkeyPatch, proxy: str
) -> None:
    monkeypatch.setenv("HTTP_PROXY", proxy)
    wanted = "the proxy that HTTP_PROXY or ALL_PROXY names"
    with pytest.raises(RerankError, match=wanted) as raised:
        make("http://host")
    assert "sec" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_a_proxys_password_is_not_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ALL_PROXY", "http://user:sec/ret@proxy")
    with pytest.raises(RerankError) as raised:
        RerankClient("http://host")
    assert "sec" not in str(raised.value)


def test_the_proxy_is_asked(
    server: ScriptedServer, make_asker: MakeAsker, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.script = [GOOD]
    monkeypatch.setenv("HTTP_PROXY", server.url.replace("//", "//user:word@"))
    make_asker(base_url="http://reranker.invalid:8000").rerank(QUERY, DOCUMENTS)
    (request,) = server.requests
    assert request.line == "POST http://reranker.invalid:8000/rerank HTTP/1.1"
    assert request.headers["host"] == "reranker.invalid:8000"
    assert request.headers["proxy-authorization"] == "Basic dXNlcjp3b3Jk"


def test_the_proxy_is_read_when_the_client_is_made(
    server: ScriptedServer, make_asker: MakeAsker, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.script = [GOOD]
    asker = make_asker()
    monkeypatch.setenv("HTTP_PROXY", "http://[")
    assert asker.rerank(QUERY, DOCUMENTS).scores == [0.45, 0.85, -0.12]


@pytest.mark.parametrize("exempt", ["127.0.0.1", "*", "a, 127.0.0.1", "{place}"])
def test_no_proxy_exempts(
    server: ScriptedServer,
    make_asker: MakeAsker,
    monkeypatch: pytest.MonkeyPatch,
    dead_url: str,
    exempt: str,
) -> None:
    server.script = [GOOD]
    monkeypatch.setenv("HTTP_PROXY", dead_url)
    monkeypatch.setenv("NO_PROXY", exempt.format(place=server.url.removeprefix("http://")))
    make_asker().rerank(QUERY, DOCUMENTS)
    assert server.requests[0].line == "POST /rerank HTTP/1.1"


@pytest.mark.parametrize("exempt", ["[::1", "http://[", "\udcff", ",,", "a:b:c"])
def test_no_proxy_may_hold_anything(
    server: ScriptedServer, make_asker: MakeAsker, monkeypatch: pytest.MonkeyPatch, exempt: str
) -> None:
    server.script = [GOOD]
    monkeypatch.setenv("NO_PROXY", exempt)
    make_asker().rerank(QUERY, DOCUMENTS)


def test_a_tunnel_that_is_refused_is_an_error(
    server: ScriptedServer, make_asker: MakeAsker, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.script = [Say(407)]
    monkeypatch.setenv("HTTPS_PROXY", server.url)
    with pytest.raises(RerankError, match="ProxyError: 407"):
        make_asker(base_url="https://reranker.invalid").rerank(QUERY, DOCUMENTS)
    assert server.requests[0].line == "CONNECT reranker.invalid:443 HTTP/1.1"


@both
@pytest.mark.parametrize("content", [None, "no certificate"])
def test_certificates_that_cannot_be_read_are_an_error_when_the_client_is_made(
    make: type, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, content: str | None
) -> None:
    file = tmp_path / "certificates.pem"
    if content is not None:
        file.write_text(content)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    with pytest.raises(RerankError, match=r"no certificates can be read .*SSL_CERT_FILE"):
        make("https://host")


@both
def test_certificates_are_read_only_where_tls_is_spoken(
    make: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "no such file")
    make("http://host")
    monkeypatch.setenv("HTTP_PROXY", "https://proxy")
    with pytest.raises(RerankError, match="no certificates can be read"):
        make("http://host")


def test_tls_within_a_proxys_tls_is_for_asyncio_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """httpcore's blocking backend gives each byte the whole time limit."""
    monkeypatch.setenv("HTTPS_PROXY", "https://proxy")
    with pytest.raises(
        RerankError, match="the proxy that HTTPS_PROXY or ALL_PROXY names is an https proxy"
    ):
        RerankClient("https://host")
    AsyncRerankClient("https://host")


def test_a_server_that_does_not_speak_tls_is_an_error(
    server: ScriptedServer, make_asker: MakeAsker
) -> None:
    server.deaf = True
    server.ended.set()  # it closes every connection at once
    with pytest.raises(RerankError, match="Error"):
        make_asker(base_url=server.url.replace("http:", "https:")).rerank(QUERY, DOCUMENTS)


@pytest.mark.parametrize(
    "error",
    [
        ssl.SSLError("handshake"),
        ConnectionResetError("reset"),
        PermissionError("sandbox"),
        UnicodeError("label"),
        RuntimeError("Event loop is closed"),
        RecursionError("deep"),
        KeyError("anything"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_whatever_the_network_raises_is_an_error_of_ours(
    make_asker: MakeAsker, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    asker = make_asker(base_url=NOBODY)
    with pytest.raises(RerankError, match=str(error).strip("'")):
        asker.rerank(QUERY, DOCUMENTS)
    assert asker.rerank_or_keep_order(QUERY, DOCUMENTS).degraded


def test_want_of_memory_is_no_error_of_ours(
    make_asker: MakeAsker, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise MemoryError

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    with pytest.raises(MemoryError):
        make_asker(base_url=NOBODY).rerank_or_keep_order(QUERY, DOCUMENTS)


def test_each_address_of_a_name_is_tried(
    server: ScriptedServer, make_asker: MakeAsker, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the first address is of a family that this machine lacks, or refuses."""
    server.script = [GOOD]
    port = int(server.url.rpartition(":")[2])
    resolve = socket.getaddrinfo
    dead = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{last}", port)) for last in (2, 3)
    ]

    def two_dead_ones(host: Any, *arguments: Any, **options: Any) -> Any:
        if host not in (NAME, NAME.encode()):
            return resolve(host, *arguments, **options)
        return dead + resolve("127.0.0.1", *arguments, **options)

    monkeypatch.setattr(socket, "getaddrinfo", two_dead_ones)
    make_asker(base_url=f"{NOBODY}:{port}").rerank(QUERY, DOCUMENTS)
    assert len(server.requests) == 1


def test_the_addresses_of_a_name_share_the_time_to_connect(monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[float] = []

    def refuse(_: object, timeout: float, **__: object) -> None:
        given.append(timeout)
        raise TimeoutError

    found = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (f"127.0.0.{n}", 9)) for n in (2, 3, 4)]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: found)
    monkeypatch.setattr(socket, "create_connection", refuse)
    with RerankClient(NOBODY, timeout_s=54, sleep=lambda _: None) as client:
        assert client.rerank_or_keep_order(QUERY, DOCUMENTS).degraded
    # A third, a half and all of the time for an attempt, each as a share of the remaining time.
    most = [18 / 3, 18 / 2, 18, 27 / 3, 27 / 2, 27, 54 / 3, 54 / 2, 54]
    assert len(given) == len(most)
    assert all(0 < one <= bound for one, bound in zip(given, most, strict=True))
