"""The server under test, ours or any other: URL, key, limits and other addresses."""

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx

from checks.faults.own import OwnServer

PATIENCE_S = 60.0
QUERY = "What is machine learning?"
PASSAGES = ("Machine learning is a subset of AI", "The weather is nice today")


def ranking(*passages: str, query: str = QUERY, **more: object) -> dict[str, Any]:
    """A NIM ranking request."""
    texts = [{"text": passage} for passage in passages or PASSAGES]
    return {"query": {"text": query}, "passages": texts, **more}


@dataclass
class Target:
    """`own` is set when the suite has started the server and may inspect its process; `rank_dir`
    is its model, `start` starts more servers of its kind. `grpc` and `metrics` are addresses or
    None."""

    url: str
    key: str | None = None
    body_limit_bytes: int = 64 << 20
    max_passages: int = 512
    grpc: str | None = None
    metrics: str | None = None
    rank_dir: Path | None = None
    own: OwnServer | None = None
    http: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        bearer = {"authorization": f"Bearer {self.key}"} if self.key else {}
        self.http = httpx.Client(base_url=self.url, headers=bearer, timeout=PATIENCE_S)

    def post(self, path: str, body: object, **options: Any) -> httpx.Response:
        """POST JSON."""
        return self.http.post(path, json=body, **options)

    def send(self, content: bytes, **headers: str) -> httpx.Response:
        """POST bytes to the ranking route; an underscore in a name stands for a dash."""
        named = {"content-type": "application/json"}
        named |= {name.replace("_", "-"): value for name, value in headers.items()}
        return self.http.post("/v1/ranking", content=content, headers=named)

    def rank(self, *passages: str, **more: Any) -> httpx.Response:
        """POST a ranking request."""
        return self.post("/v1/ranking", ranking(*passages, **more))

    def logits(self, *passages: str, **more: Any) -> list[float]:
        """The logits in the order of the passages."""
        found = self.rank(*passages, **more).raise_for_status().json()["rankings"]
        return [entry["logit"] for entry in sorted(found, key=lambda entry: entry["index"])]

    def serves(self, path: str, body: object) -> bool:
        """Whether the target has that route, and a model behind it."""
        return self.post(path, body).status_code not in (404, 405)

    def still_answers(self) -> bool:
        """Whether an ordinary request works."""
        with contextlib.suppress(httpx.TransportError):
            return self.rank().status_code == 200
        return False

    @contextlib.contextmanager
    def connection(self) -> Iterator[socket.socket]:
        """A plain socket to it."""
        found = urlsplit(self.url)
        address = (found.hostname or "", found.port or 80)
        with socket.create_connection(address, timeout=PATIENCE_S) as connected:
            yield connected

    def head(self, *lines: str, first: str = "POST /v1/ranking HTTP/1.1") -> bytes:
        """A request's head."""
        asked = [first, "Host: localhost", "Content-Type: application/json", *lines]
        if self.key:
            asked.append(f"Authorization: Bearer {self.key}")
        return "\r\n".join(asked).encode() + b"\r\n\r\n"

    def exchange(self, raw: bytes, wait_s: float = 10.0) -> bytes:
        """Send bytes; return everything received until the connection closes or is silent."""
        with self.connection() as connected:
            with contextlib.suppress(OSError):  # it may close before all is sent
                connected.sendall(raw)
            return received(connected, wait_s)


def received(connected: socket.socket, wait_s: float) -> bytes:
    """Everything received until the peer closes, or is silent after it has begun."""
    found = b""
    end = time.monotonic() + wait_s
    try:
        while True:
            connected.settimeout(0.3 if b"\r\n\r\n" in found else max(0.01, end - time.monotonic()))
            part = connected.recv(65536)
            if not part:
                return found
            found += part
    except OSError:
        return found


def status(raw: bytes) -> int:
    """The status of a raw answer; 0 when the connection was closed without an answer."""
    line = raw.split(b"\r\n", 1)[0].split(b" ")
    return int(line[1]) if len(line) > 1 and line[1].isdigit() else 0


BODY = json.dumps(ranking()).encode()
