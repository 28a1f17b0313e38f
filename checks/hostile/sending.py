"""Send a hostile body; the result is a word: HTTP's status or gRPC's, or the reason for none."""

import contextlib
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import grpc

_SERVICE = "/inference.GRPCInferenceService/"
# Reached only by a hang.
PATIENCE_S = 120.0
_CHUNK = b"1\r\n \r\n"
_PIECE = 10_000
_MIB = 1 << 20


@dataclass(frozen=True)
class Address:
    """A server's addresses for HTTP (host and port) and gRPC (host:port), and its key."""

    http: tuple[str, int]
    grpc: str
    key: str | None = None

    def head(
        self, path: str, headers: Mapping[str, str], *, method: str = "POST", keyed: bool = True
    ) -> bytes:
        """The head of a request, with the key where `keyed`."""
        named = {"host": "localhost", **headers}
        if self.key and keyed:
            named["authorization"] = f"Bearer {self.key}"
        lines = [
            f"{method} {path} HTTP/1.1",
            *(f"{name}: {value}" for name, value in named.items()),
        ]
        return "\r\n".join(lines).encode() + b"\r\n\r\n"

    @contextlib.contextmanager
    def connected(self) -> Iterator[socket.socket]:
        """A connection to the API's port."""
        with socket.create_connection(self.http, timeout=PATIENCE_S) as found:
            yield found


def send(to: Address, surface: str, body: bytes, headers: Mapping[str, str]) -> str:
    """Send a body to a path of HTTP, or to a method of gRPC."""
    if not surface.startswith("/"):
        return _call(to, surface, body)
    head = to.head(surface, {**headers, "content-length": str(len(body)), "connection": "close"})
    with to.connected() as connection:
        with contextlib.suppress(OSError):  # it may answer before all is sent
            connection.sendall(head)
            connection.sendall(body)
        return _status(connection)


def _call(to: Address, method: str, message: bytes) -> str:
    options = [("grpc.max_send_message_length", -1)]
    bearer = (("authorization", f"Bearer {to.key}"),) if to.key else ()
    with grpc.insecure_channel(to.grpc, options) as channel:
        try:
            channel.unary_unary(_SERVICE + method)(message, metadata=bearer, timeout=PATIENCE_S)
        except grpc.RpcError as error:
            return str(error.code().name)
    return "OK"


def _status(connection: socket.socket) -> str:
    """The status of the answer, or the reason why there is none."""
    found = b""
    try:
        while b"\r\n" not in found and (part := connection.recv(65536)):
            found += part
    except TimeoutError:
        return "no answer"
    except OSError:
        pass
    words = found.split(b" ", 2)
    return words[1].decode("ascii", "replace") if len(words) > 1 else "closed"


def chunks(to: Address, count: int, *, keyed: bool) -> str:
    """Send `count` chunks of one byte, with the key or without."""
    head = to.head(
        "/v1/ranking",
        {"content-type": "application/json", "transfer-encoding": "chunked"},
        keyed=keyed,
    )
    with to.connected() as connection:
        with contextlib.suppress(OSError):
            connection.sendall(head)
            for _ in range(count // _PIECE):
                connection.sendall(_CHUNK * _PIECE)
            connection.sendall(b"0\r\n\r\n")
        return _status(connection)


def after_answer(to: Address, size: int, *, method: str, path: str, pause_s: float = 0.0) -> str:
    """Announce `size` bytes to a route that answers before reading them, and keep sending after the
    answer: as fast as possible, or a byte each `pause_s`. The result says whether they were still
    accepted at the end."""
    with to.connected() as connection:
        head = to.head(path, {"content-length": str(size)}, method=method, keyed=False)
        connection.sendall(head)
        answer = _status(connection)
        piece = b" " if pause_s else bytes(_MIB)
        end = time.monotonic() + PATIENCE_S / 2
        with contextlib.suppress(OSError):
            for _ in range(size // len(piece)):
                connection.sendall(piece)
                time.sleep(pause_s)
                if time.monotonic() > end:
                    break
            return f"{answer}, open"
        return f"{answer}, closed"
