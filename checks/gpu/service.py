"""A server of our own on the GPU, and its answers when memory runs out or the GPU fails.

Uses only the standard library as a client: the machine may have no HTTP client.
"""

import contextlib
import http.client
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from checks.serving import ROOT, Server
from runtime.engines import MODEL_FILE

_TOKENIZER = ROOT / "embedded" / "rank" / "tokenizer.json"
_ANSWER_S = 120.0
# `rerank-serve` from the sources, with bundled packages; its last argument is a file that breaks
# the GPU once it exists.
SERVE = """
import sys
from pathlib import Path
from checks.gpu.bundled import use_bundled
use_bundled()
from checks.gpu.lost import break_when
break_when(Path(sys.argv.pop()))
from server.cli import main
sys.exit(main())
"""
_IMPORT = """
from checks.gpu.bundled import use_bundled
use_bundled()
import server.cli, server.app
"""
# A passage that is truncated to the model's limit, and one of a few tokens.
LONG, SHORT = "word " * 20_000, "a short passage"


@dataclass(frozen=True)
class Answer:
    """A reply: `status` 0 when there was none."""

    status: int
    headers: Mapping[str, str] | http.client.HTTPMessage
    body: bytes

    def logits(self) -> list[float]:
        """In the order of the passages."""
        found = json.loads(self.body)["rankings"]
        return [one["logit"] for one in sorted(found, key=lambda one: one["index"])]


class Service(Server):
    """A process that serves; `trigger` is the file that breaks it."""

    def __init__(self, folder: Path, settings: Mapping[str, str], code: str) -> None:
        self.trigger = folder / "break-the-gpu"
        given = {
            "PYTHONPATH": str(ROOT),
            "NIM_TRITON_METRICS_PORT": "0",
            "NIM_TRITON_GRPC_PORT": "0",
            **settings,
        }
        super().__init__(given, "-c", code, str(self.trigger), environment=os.environ)

    def ranks(self, *passages: str) -> Answer:
        """Rank them, each cut at the model's limit."""
        texts = [{"text": passage} for passage in passages]
        body = {"query": {"text": "q"}, "passages": texts, "truncate": "END"}
        headers = {"Content-Type": "application/json"}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_ANSWER_S)
        with contextlib.closing(connection):
            try:
                connection.request("POST", "/v1/ranking", json.dumps(body), headers)
                reply = connection.getresponse()
                return Answer(reply.status, reply.headers, reply.read())
            except (OSError, http.client.HTTPException):
                return Answer(0, {}, b"")

    def health(self) -> tuple[int, int]:
        """The statuses of live and ready."""
        return self.status("/v1/health/live"), self.status("/v1/health/ready")


def missing() -> str | None:
    """What this Python lacks to run the server; None: nothing."""
    done = subprocess.run(
        [sys.executable, "-c", _IMPORT], cwd=ROOT, capture_output=True, text=True, check=False
    )
    return None if done.returncode == 0 else done.stderr.strip().splitlines()[-1]


@contextlib.contextmanager
def serving(
    folder: Path, model: Path, settings: Mapping[str, str], code: str = SERVE
) -> Iterator[Service]:
    """A ready server on the directory `model`; its trigger is in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    with Service(folder, {"NIM_CUSTOM_MODEL": str(model), **settings}, code) as service:
        yield service.ready()


def with_tokenizer(exported: Path, directory: Path) -> Path:
    """Make `directory` a NIM_CUSTOM_MODEL mount: the graph and a tokenizer."""
    (directory / "tokenizer").mkdir(parents=True)
    shutil.copyfile(_TOKENIZER, directory / "tokenizer" / "tokenizer.json")
    for path in exported.glob(f"{MODEL_FILE}*"):
        os.link(path, directory / path.name)
    return directory


def survives_no_memory(service: Service) -> str:
    """A row without memory is refused with 503 and Retry-After; all other requests are served,
    before and after, and health does not ask for a restart."""
    before = service.ranks(SHORT, "another")
    _expect(before, 200, service)
    refused = service.ranks(LONG)
    _expect(refused, 503, service)
    message = json.loads(refused.body)["message"]
    assert "no memory for this request" in message, message
    assert int(refused.headers.get("Retry-After", "0")) >= 1, refused.headers
    assert service.health() == (200, 200), service.log[-1500:]
    # A row that fits is answered, even with many rows waiting.
    many = service.ranks(*(f"{SHORT} {number}" for number in range(64)))
    _expect(many, 200, service)
    after = service.ranks(SHORT, "another")
    _expect(after, 200, service)
    apart = max(abs(a - b) for a, b in zip(before.logits(), after.logits(), strict=True))
    assert apart < 1e-2, (before.logits(), after.logits())
    return "the longest row: 503, come back later; live, ready, and the others served"


def admits_a_lost_device(service: Service, lose: Callable[[Service], Any]) -> str:
    """After a GPU failure, every request gets 503, health asks for a restart, and the process ends
    on SIGTERM."""
    _expect(service.ranks(SHORT), 200, service)
    lose(service)
    lost = service.ranks(SHORT)
    _expect(lost, 503, service)
    message = json.loads(lost.body)["message"]
    assert "needs a new process" in message, message
    assert service.health() == (503, 503), service.log[-1500:]
    _expect(service.ranks(SHORT, LONG), 503, service)
    status = service.stop()
    return f"every request 503, live and ready 503, exit status {status}"


def break_it(service: Service) -> None:
    """Break its GPU, and wait until that is done."""
    service.trigger.touch()
    service.wait_until(lambda: not service.trigger.exists() or service.process.poll() is not None)
    assert not service.trigger.exists(), service.log[-1500:]


def _expect(answer: Answer, status: int, service: Service) -> None:
    assert answer.status == status, (answer.status, answer.body[:300], service.log[-1500:])
