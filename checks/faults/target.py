"""The server under test, ours or any other: URL, key, limits and other addresses."""

import contextlib
import json
import re
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

import httpx

from checks.faults.fault import NotApplicable, NotJudged, expect
from checks.load import by_index
from checks.others import MAX_OTHER_SHARE, Others
from checks.serving import Server

PATIENCE_S = 60.0
# A refusal must be immediate; a whole request may take as long as a slow model needs.
REFUSAL_S = 5.0
# Of the server with a model that takes images.
OWN_IMAGE_BYTES, OWN_TILES = 4 << 20, 256
QUERY = "What is machine learning?"
PASSAGES = ("Machine learning is a subset of AI", "The weather is nice today")
_NOTHING: Mapping[str, str] = MappingProxyType({})
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.I)


def ranking(*passages: str, query: str = QUERY, **more: object) -> dict[str, Any]:
    """A NIM ranking request."""
    texts = [{"text": passage} for passage in passages or PASSAGES]
    return {"query": {"text": query}, "passages": texts, **more}


@dataclass
class Target:
    """`own` is set when the suite has started the server and may inspect its process; `model` are
    the settings of its model, with which the suite starts more, and `rank_dir` its artifact.
    `grpc` and `metrics` are addresses or None. Without `timed` lateness is no fault. With the
    artifact `vision_dir`, which takes images, another server is started for them."""

    url: str
    key: str | None = None
    body_limit_bytes: int = 64 << 20
    max_passages: int = 512
    grpc: str | None = None
    metrics: str | None = None
    rank_dir: Path | None = None
    model: Mapping[str, str] | None = None
    own: Server | None = None
    timed: bool = True
    vision_dir: Path | None = None
    http: httpx.Client = field(init=False)
    _sees: "Target | None" = field(init=False, default=None)

    def __post_init__(self) -> None:
        bearer = {"authorization": f"Bearer {self.key}"} if self.key else {}
        self.http = httpx.Client(base_url=self.url, headers=bearer, timeout=PATIENCE_S)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port."""
        found = urlsplit(self.url)
        return found.hostname or "", found.port or 80

    def inspected(self) -> Server:
        """Its process. Raises NotApplicable."""
        if self.own is None:
            raise NotApplicable("needs a server of our own")
        return self.own

    def grpc_address(self) -> str:
        """Raises NotApplicable."""
        if self.grpc is None:
            raise NotApplicable("no gRPC address is known")
        return self.grpc

    def settings(self) -> Mapping[str, str]:
        """Those of its model. Raises NotApplicable."""
        if self.model is None:
            raise NotApplicable("needs a server of our own")
        return self.model

    def start(
        self,
        given: Mapping[str, str] = _NOTHING,
        *arguments: str,
        model: Path | None = None,
        **options: Any,
    ) -> Server:
        """Another server, of the same model or of the directory `model`. Raises NotApplicable."""
        own = self.settings()
        served = {"NIM_CUSTOM_MODEL": str(model)} if model else own
        return Server({**served, **given}, *arguments, **options)

    def seeing(self, image: str) -> "Target":
        """A target whose model takes images: this one if it ranks `image`, or a server of our own,
        which is started once. Raises NotApplicable."""
        if self._sees is not None:
            return self._sees
        passages = [{"text": PASSAGES[0], "image": image}]
        body = {"query": {"text": QUERY}, "passages": passages}
        if self.post("/v1/ranking", body).status_code == 200:
            self._sees = self
        elif self.own is None or self.vision_dir is None:
            raise NotApplicable("its model takes no images")
        else:
            given = {
                "NIM_MAX_IMAGE_BYTES": str(OWN_IMAGE_BYTES),
                "RERANK_IMAGE_MAX_TILES": str(OWN_TILES),
            }
            server = self.start(given, model=self.vision_dir)
            self._sees = Target(server.ready().url, own=server, timed=self.timed)
        return self._sees

    def close(self) -> None:
        """Close connections, and end the server that takes images."""
        if self._sees not in (None, self):
            self._sees.close()
            self._sees.inspected().close()
        self.http.close()

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
        return by_index(self.rank(*passages, **more).raise_for_status().json()["rankings"], "logit")

    def serves(self, path: str, body: object) -> bool:
        """Whether the target has that route, and a model behind it."""
        return self.post(path, body).status_code not in (404, 405)

    def still_answers(self) -> bool:
        """Whether an ordinary request works."""
        with contextlib.suppress(httpx.TransportError):
            return self.rank().status_code == 200
        return False

    @contextlib.contextmanager
    def connection(self, timeout_s: float = PATIENCE_S) -> Iterator[socket.socket]:
        """A plain socket to it."""
        with socket.create_connection(self.address, timeout=timeout_s) as connected:
            yield connected

    def head(
        self,
        *lines: str,
        method: str = "POST",
        path: str = "/v1/ranking",
        version: str = "1.1",
        keyed: bool = True,
    ) -> bytes:
        """A request's head, of JSON unless the lines have another type; `keyed`: with the key."""
        asked = [f"{method} {path} HTTP/{version}", "Host: localhost", *lines]
        if not any(line.lower().startswith("content-type:") for line in lines):
            asked.append("Content-Type: application/json")
        if self.key and keyed:
            asked.append(f"Authorization: Bearer {self.key}")
        return "\r\n".join(asked).encode() + b"\r\n\r\n"

    def exchange(self, raw: bytes, answers: int = 1) -> bytes:
        """Send bytes; return everything received until the connection closes or is silent."""
        with self.connection() as connected:
            with contextlib.suppress(OSError):  # it may close before all is sent
                connected.sendall(raw)
            return received(connected, answers=answers)


class Stopwatch:
    """Measures from its creation. Lateness counts only when the server had the machine alone."""

    def __init__(self, target: Target) -> None:
        self._timed = target.timed
        self._others = Others() if target.own and target.timed else None
        self._began = time.monotonic()

    def expect(self, bound_s: float, what: str, took_s: float | None = None) -> None:
        """Raise Broken when `what` took `bound_s` or longer (until now, unless `took_s` is given),
        NotJudged when other processes used the machine meanwhile."""
        took_s = time.monotonic() - self._began if took_s is None else took_s
        text = f"{what} took {took_s:.2f} s"
        if took_s >= bound_s and self._others and (share := self._others.share()) > MAX_OTHER_SHARE:
            raise NotJudged(f"{text}, but others took {share:.0%} of the machine")
        expect(took_s < bound_s or not self._timed, text)

    def longest(self, ask: Callable[[], Any], during: Iterable[Future[Any]]) -> float:
        """Ask again and again while `during` run; the longest time that it took, in seconds."""
        longest, running = 0.0, list(during)
        while not all(one.done() for one in running):
            began = time.monotonic()
            ask()
            longest = max(longest, time.monotonic() - began)
            time.sleep(0.005)
        return longest


def received(connected: socket.socket, wait_s: float = 10.0, answers: int = 1) -> bytes:
    """Everything received until the peer closes, has sent this many whole answers, or is silent
    after it has begun."""
    found = b""
    end = time.monotonic() + wait_s
    try:
        while not _whole(found, answers):
            connected.settimeout(0.3 if b"\r\n\r\n" in found else max(0.01, end - time.monotonic()))
            part = connected.recv(65536)
            if not part:
                return found
            found += part
    except OSError:
        pass
    return found


def _whole(found: bytes, answers: int) -> bool:
    """Whether this many answers, each with a Content-Length, are there."""
    for _ in range(answers):
        head, end, found = found.partition(b"\r\n\r\n")
        length = _LENGTH.search(head + b"\r\n")
        if not end or length is None or len(found) < int(length[1]):
            return False
        found = found[int(length[1]) :]
    return True


def status(raw: bytes) -> int:
    """The status of a raw answer; 0 when the connection was closed without an answer."""
    line = raw.split(b"\r\n", 1)[0].split(b" ")
    return int(line[1]) if len(line) > 1 and line[1].isdigit() else 0


BODY = json.dumps(ranking()).encode()
