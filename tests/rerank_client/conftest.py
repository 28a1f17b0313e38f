"""A scripted server, and both clients behind one blocking interface."""

import asyncio
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import certifi
import pytest

from rerank_client import AsyncRerankClient, RerankClient, RerankResult
from tests.rerank_client.scripted_server import ScriptedServer


class AsyncFromOutside:
    """An AsyncRerankClient in an event loop of its own."""

    def __init__(self, *, sleep: Callable[[float], object], **options: Any) -> None:
        async def pause(seconds: float) -> None:
            sleep(seconds)

        self._runner = asyncio.Runner()
        self.client = AsyncRerankClient(**options, sleep=pause)

    def rerank(self, *arguments: Any, **options: Any) -> RerankResult:
        return self._runner.run(self.client.rerank(*arguments, **options))

    def rerank_or_keep_order(self, *arguments: Any, **options: Any) -> RerankResult:
        return self._runner.run(self.client.rerank_or_keep_order(*arguments, **options))

    def close(self) -> None:
        self._runner.run(self.client.aclose())
        self._runner.close()


Asker = RerankClient | AsyncFromOutside
MakeAsker = Callable[..., Asker]


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    scripted = ScriptedServer()
    yield scripted
    scripted.close()


@pytest.fixture
def dead_url() -> Iterator[str]:
    """An address without a listener: its port is reserved, so that none appears."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{held.getsockname()[1]}"


@pytest.fixture
def waits() -> list[float]:
    """Seconds that the client wanted to wait, in order."""
    return []


@pytest.fixture(params=[RerankClient, AsyncFromOutside], ids=["sync", "async"])
def make_asker(
    request: pytest.FixtureRequest, server: ScriptedServer, waits: list[float]
) -> Iterator[MakeAsker]:
    """Makes clients that record their waits instead of waiting. Closed before the server is."""
    with ExitStack() as opened:

        def make(**options: Any) -> Asker:
            asker: Asker = request.param(**{"base_url": server.url, **options}, sleep=waits.append)
            opened.callback(asker.close)
            return asker

        yield make


@pytest.fixture
def asker(make_asker: MakeAsker) -> Asker:
    return make_asker()


@pytest.fixture(scope="session")
def one_certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Replaces certificates, which httpx reads for every client, slower than most tests here."""
    end = "-----END CERTIFICATE-----"
    file = tmp_path_factory.mktemp("certificate") / "one.pem"
    file.write_text(certifi.contents().split(end)[0] + end, "utf-8")
    return file


@pytest.fixture(autouse=True)
def _nothing_from_outside(monkeypatch: pytest.MonkeyPatch, one_certificate: Path) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(one_certificate))
    for name in ("RERANK_URL", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
