"""A real HTTP server that answers by a script, one step for each request."""

import json
import socketserver
import ssl
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

_POLL_S = 0.01


@dataclass(frozen=True)
class Say:
    """One HTTP answer."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    def bytes(self) -> bytes:
        headers = {"content-length": str(len(self.body)), **self.headers}
        lines = [f"HTTP/1.1 {self.status} {HTTPStatus(self.status).phrase}"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        return "\r\n".join([*lines, "", ""]).encode() + self.body


@dataclass(frozen=True)
class Raw:
    """Raw bytes; then the connection is closed."""

    data: bytes = b""


class Hang:
    """No answer; the connection is closed with the server."""


@dataclass(frozen=True)
class Endless:
    """`head`, then `piece` repeatedly, until the client closes the connection."""

    head: bytes
    piece: bytes
    pause_s: float = 0.0


Step = Say | Raw | Hang | Endless


def ranking(scores: Sequence[float]) -> Say:
    """The reranking server's answer for these logits."""
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    reply = {"id": "r", "model": "m", "scores": list(scores), "ranked_indices": order}
    return Say(200, json.dumps(reply).encode(), {"content-type": "application/json"})


@dataclass(frozen=True)
class Request:
    """A received request; header names in lower case. `connection` counts from 0."""

    connection: int
    line: str
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


class ScriptedServer:
    """Serves on a free port until `close`; the last step answers all further requests.

    `deaf`: connections are taken and nothing is read from them. With `tls` it speaks that.
    """

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.deaf = False
        self.tls = tls
        self.script: list[Step] = []
        self.requests: list[Request] = []
        self.connections = 0
        self.open_connections = 0
        self._count = threading.Lock()
        self.ended = threading.Event()
        self._tcp = _Tcp(self)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self._tcp.server_address[1]}"
        self._thread = threading.Thread(target=self._tcp.serve_forever, args=(_POLL_S,))
        self._thread.start()

    @contextmanager
    def connection(self) -> Iterator[int]:
        """The connection's number, while it is open."""
        with self._count:
            number = self.connections
            self.connections += 1
            self.open_connections += 1
        try:
            yield number
        finally:
            with self._count:
                self.open_connections -= 1

    def next_step(self, request: Request) -> Step:
        with self._count:
            step = self.script[min(len(self.requests), len(self.script) - 1)]
            self.requests.append(request)
        return step

    def close(self) -> None:
        """Waits for each connection's thread: the clients must have closed their connections."""
        self.ended.set()
        self._tcp.shutdown()
        self._thread.join()
        self._tcp.server_close()


class _Tcp(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
    request_queue_size = 64  # a connection beyond it waits a second

    def __init__(self, scripted: ScriptedServer) -> None:
        self.scripted = scripted
        super().__init__(("127.0.0.1", 0), _Connection)


class _Connection(socketserver.StreamRequestHandler):
    def setup(self) -> None:
        assert isinstance(self.server, _Tcp)
        scripted = self.server.scripted
        if scripted.tls is not None and not scripted.deaf:
            self.request = scripted.tls.wrap_socket(self.request, server_side=True)
        super().setup()

    def finish(self) -> None:
        super().finish()
        self.request.close()  # under TLS the server only knows the inner socket

    def handle(self) -> None:
        assert isinstance(self.server, _Tcp)
        scripted = self.server.scripted
        with scripted.connection() as number, suppress(OSError):
            if scripted.deaf:
                scripted.ended.wait()
            else:
                self._serve(scripted, number)

    def _serve(self, scripted: ScriptedServer, number: int) -> None:
        while request := self._request(number):
            step = scripted.next_step(request)
            if isinstance(step, Say):
                self.wfile.write(step.bytes())
                continue
            if isinstance(step, Raw):
                self.wfile.write(step.data)
            elif isinstance(step, Endless):
                self._go_on(step, scripted.ended)
            else:
                scripted.ended.wait()
            return

    def _go_on(self, step: Endless, ended: threading.Event) -> None:
        self.wfile.write(step.head)
        while not ended.wait(step.pause_s):
            self.wfile.write(step.piece)

    def _request(self, number: int) -> Request | None:
        line = self.rfile.readline().decode("latin-1").strip()
        if not line:
            return None
        headers = {}
        while header := self.rfile.readline().decode("latin-1").strip():
            name, _, value = header.partition(":")
            headers[name.lower()] = value.strip()
        body = self.rfile.read(int(headers.get("content-length", 0)))
        return Request(number, line, headers, body)
