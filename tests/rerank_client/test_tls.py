"""Over TLS: the same connections, the same limits."""

import asyncio
import gc
import ssl
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from rerank_client import AsyncRerankClient, RerankClient, RerankError
from tests.rerank_client.conftest import MakeAsker
from tests.rerank_client.scripted_server import Endless, Hang, ScriptedServer, Step, ranking
from tests.waiting import PATIENCE_S, wait_until

QUERY = "which one?"
DOCUMENTS = ["first", "second", "third"]
GOOD = ranking([0.45, 0.85, -0.12])


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for 127.0.0.1, and its key, in one file."""
    folder = tmp_path_factory.mktemp("tls")
    chain, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-keyout", key, "-out", chain, "-days", "2", "-subj", "/CN=localhost"),
            *("-addext", "subjectAltName=IP:127.0.0.1"),
        ],
        check=True,
        capture_output=True,
    )
    chain.write_bytes(chain.read_bytes() + key.read_bytes())
    return chain


@pytest.fixture
def server(certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ScriptedServer]:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate)
    scripted = ScriptedServer(tls)
    yield scripted
    scripted.close()


def test_calls_share_a_connection(server: ScriptedServer, make_asker: MakeAsker) -> None:
    server.script = [GOOD]
    asker = make_asker()
    for _ in range(3):
        assert asker.rerank(QUERY, ["x" * 100_000, "second", "third"]).ranked_indices == [1, 0, 2]
    assert server.connections == 1


@pytest.mark.parametrize(
    "step",
    [
        Endless(b"HTTP/1.1 200 OK\r\nx: ", b"y", 0.01),
        Endless(b"HTTP/1.1 200 OK\r\n\r\n", b" " * 65536),
    ],
    ids=["drips", "floods"],
)
def test_limits_are_kept(server: ScriptedServer, make_asker: MakeAsker, step: Step) -> None:
    server.script = [step]
    with pytest.raises(RerankError, match=r"Timeout|it takes more than"):
        make_asker(timeout_s=0.5).rerank(QUERY, DOCUMENTS)


def test_a_handshake_that_nobody_answers_is_an_error(
    server: ScriptedServer, make_asker: MakeAsker
) -> None:
    server.deaf = True
    with pytest.raises(RerankError, match="Timeout"):
        make_asker(timeout_s=0.3).rerank(QUERY, DOCUMENTS)


@pytest.mark.parametrize("deaf", [False, True], ids=["an answer", "a handshake"])
def test_closing_ends_a_call_that_waits_for(server: ScriptedServer, deaf: bool) -> None:
    server.script, server.deaf = [Hang()], deaf
    client = RerankClient(server.url)
    with ThreadPoolExecutor(1) as threads:
        call = threads.submit(client.rerank, QUERY, DOCUMENTS)
        wait_until(lambda: bool(server.connections if deaf else server.requests))
        client.close()
        with pytest.raises(RerankError):
            call.result(PATIENCE_S)


def test_a_loop_that_was_only_closed_leaves_nothing_open(server: ScriptedServer) -> None:
    server.script = [GOOD]
    client = AsyncRerankClient(server.url)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(client.rerank(QUERY, DOCUMENTS))
    loop.close()
    asyncio.run(client.aclose())
    gc.collect()  # open connections warn then, and a warning is an error
    wait_until(lambda: server.open_connections == 0)
