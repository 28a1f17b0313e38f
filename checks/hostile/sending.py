"""Send a hostile body; the result is a word: HTTP's status or gRPC's, or the reason for none."""

import contextlib
import socket
import time
from collections.abc import Mapping

import grpc

from checks.faults.target import Target

_SERVICE = "/inference.GRPCInferenceService/"
# Reached only by a hang.
PATIENCE_S = 120.0
_CHUNK = b"1\r\n \r\n"
_PIECE = 10_000
_MIB = 1 << 20


def send(to: Target, surface: str, body: bytes, headers: Mapping[str, str]) -> str:
    """Send a body to a path of HTTP, or to a method of gRPC."""
    if not surface.startswith("/"):
        return _call(to, surface, body)
    named = {**headers, "Content-Length": str(len(body)), "Connection": "close"}
    head = to.head(*(f"{name}: {value}" for name, value in named.items()), path=surface)
    with to.connection(PATIENCE_S) as connection:
        with contextlib.suppress(OSError):  # it may answer before all is sent
            connection.sendall(head)
            connection.sendall(body)
        return _status(connection)


def _call(to: Target, method: str, message: bytes) -> str:
    options = [("grpc.max_send_message_length", -1)]
    bearer = (("authorization", f"Bearer {to.key}"),) if to.key else ()
    with grpc.insecure_channel(to.grpc or "", options) as channel:
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


def chunks(to: Target, count: int, *, keyed: bool) -> str:
    """Send `count` chunks of one byte, with the key or without."""
    head = to.head("Transfer-Encoding: chunked", keyed=keyed)
    with to.connection(PATIENCE_S) as connection:
        with contextlib.suppress(OSError):
            connection.sendall(head)
            for _ in range(count // _PIECE):
                connection.sendall(_CHUNK * _PIECE)
            connection.sendall(b"0\r\n\r\n")
        return _status(connection)


def after_answer(to: Target, size: int, *, method: str, path: str, pause_s: float = 0.0) -> str:
    """Announce `size` bytes to a route that answers before reading them, and keep sending after the
    answer: as fast as possible, or a byte each `pause_s`. The result says whether they were still
    accepted at the end."""
    with to.connection(PATIENCE_S) as connection:
        head = to.head(f"Content-Length: {size}", method=method, path=path, keyed=False)
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
