"""Run candidates: each in its own process, one active at a time."""

import http.client
import json
import math
import os
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from benchmarks import machine
from benchmarks.environments import ROOT, PeerMissing, child_variables, interpreter
from benchmarks.models import BenchModel
from benchmarks.protocol import Setting, templated
from benchmarks.roster import Candidate, Speaks
from checks.ports import free_port

_HOST = "127.0.0.1"
_START_S = 600.0
_ANSWER_S = 600.0
_STOP_S = 20.0


class CandidateFailed(Exception):
    """A candidate ended, hung or refused; the message says how."""


class Client(Protocol):
    """A client of a candidate; an HTTP candidate may have several at the same time."""

    def score(self, query: str, passages: list[str]) -> list[float]:
        """Raw logits in the order of the passages. Raises CandidateFailed."""

    def close(self) -> None:
        """End the connection."""


class Session:
    """One running candidate."""

    def __init__(self, candidate: Candidate, model: BenchModel, graph: Path | None) -> None:
        """Start it and wait until it can score. Raises PeerMissing or CandidateFailed."""
        self.candidate = candidate
        self._template = model.template
        self._log = model.folder / "logs" / f"{candidate.name}.log"
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._port = free_port()
        setting = _setting(candidate, model, graph, self._port)
        command = [
            str(interpreter(candidate.peer)),
            "-m",
            f"benchmarks.candidates.{candidate.module}",
        ]
        began = time.monotonic()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                [*command, setting.to_argument()],
                cwd=ROOT,
                env=child_variables(),
                stdin=subprocess.PIPE,
                stdout=log if candidate.serves else subprocess.PIPE,
                stderr=log,
                start_new_session=True,
            )
        try:
            self._wait_until_ready()
        except BaseException:
            self.close()
            raise
        self.start_s = time.monotonic() - began

    @property
    def group(self) -> int:
        """The process group of the candidate."""
        return self._process.pid

    def client(self) -> Client:
        """A new caller."""
        if self.candidate.serves:
            return _HttpClient(self._port, self.candidate.speaks, self._template, self._explain)
        return _LineClient(self._process, self._explain)

    def pause(self) -> None:
        """Stop all its threads, so that it takes no time from the active candidate."""
        os.killpg(self.group, signal.SIGSTOP)

    def resume(self) -> None:
        """Let it continue."""
        os.killpg(self.group, signal.SIGCONT)

    def close(self) -> None:
        """Stop the candidate and every process that it started."""
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_STOP_S)
        self._signal(signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()

    def _signal(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.group, number)

    def _wait_until_ready(self) -> None:
        if not self.candidate.serves:
            _LineClient(self._process, self._explain).wait_until_ready()
            return
        path = DIALECTS[self.candidate.speaks].ready
        give_up = time.monotonic() + _START_S
        while time.monotonic() < give_up and self._process.poll() is None:
            if _answers(self._port, path):
                return
            time.sleep(0.1)
        raise self._explain(f"not ready within {_START_S:.0f} s")

    def _explain(self, what: str) -> CandidateFailed:
        """The error, with the end of its log when it has ended."""
        time.sleep(0.1)  # after its pipe closes, the process ends
        status = self._process.poll()
        if status is None:
            return CandidateFailed(what)
        lines = self._log.read_text(errors="replace").splitlines()
        last = next((line.strip() for line in reversed(lines) if line.strip()), "no output")
        return CandidateFailed(f"ended with status {status}: {last[:300]}")


class _LineClient:
    def __init__(
        self, process: "subprocess.Popen[bytes]", explain: Callable[[str], CandidateFailed]
    ) -> None:
        self._process = process
        self._explain = explain

    def wait_until_ready(self) -> None:
        """Read the ready line."""
        self._read(_START_S)

    def score(self, query: str, passages: list[str]) -> list[float]:
        """See Client."""
        assert self._process.stdin is not None
        line = json.dumps({"query": query, "passages": passages}) + "\n"
        try:
            self._process.stdin.write(line.encode())
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._explain("closed its standard input") from None
        answer = self._read(_ANSWER_S)
        if "scores" not in answer:
            raise CandidateFailed(answer.get("error", "answered without scores"))
        return _checked(answer["scores"], passages)

    def close(self) -> None:
        """See Client: the pipe belongs to the session."""

    def _read(self, limit_s: float) -> dict[str, Any]:
        assert self._process.stdout is not None
        # A pipe has no timeout of its own; killing the process ends the wait.
        watch = threading.Timer(limit_s, os.killpg, (self._process.pid, signal.SIGKILL))
        watch.start()
        try:
            line = self._process.stdout.readline()
        finally:
            watch.cancel()
        if not line:
            raise self._explain(f"no answer within {limit_s:.0f} s")
        answer: dict[str, Any] = json.loads(line)
        return answer


class Dialect(Protocol):
    """The HTTP contract of a kind of server."""

    ready: str
    path: str

    def body(self, query: str, passages: list[str], template: str | None) -> dict[str, Any]:
        """The request."""

    def scores(self, reply: dict[str, Any]) -> list[float]:
        """The reply's raw logits in the order of the passages."""


class _Nim:
    ready, path = "/v1/health/ready", "/v1/ranking"

    def body(self, query: str, passages: list[str], _template: str | None) -> dict[str, Any]:
        texts = [{"text": passage} for passage in passages]
        return {"query": {"text": query}, "passages": texts, "truncate": "END"}

    def scores(self, reply: dict[str, Any]) -> list[float]:
        return _in_order((row["index"], row["logit"]) for row in reply["rankings"])


class _Service:
    ready, path = "/health", "/rerank"

    def body(self, query: str, passages: list[str], _template: str | None) -> dict[str, Any]:
        return {"query": query, "passages": passages}

    def scores(self, reply: dict[str, Any]) -> list[float]:
        found: list[float] = reply["scores"]
        return found


class _Infinity:
    ready, path = "/health", "/rerank"

    def body(self, query: str, passages: list[str], template: str | None) -> dict[str, Any]:
        asked = query if template is None else templated(template, query, "")
        return {"model": "bench", "query": asked, "documents": passages, "raw_scores": True}

    def scores(self, reply: dict[str, Any]) -> list[float]:
        return _in_order((row["index"], row["relevance_score"]) for row in reply["results"])


DIALECTS: dict[Speaks, Dialect] = {"nim": _Nim(), "service": _Service(), "infinity": _Infinity()}


class _HttpClient:
    """A client with one persistent connection."""

    def __init__(
        self,
        port: int,
        speaks: Speaks,
        template: str | None,
        explain: Callable[[str], CandidateFailed],
    ) -> None:
        self._connection = http.client.HTTPConnection(_HOST, port, timeout=_ANSWER_S)
        self._dialect = DIALECTS[speaks]
        self._template = template
        self._explain = explain

    def score(self, query: str, passages: list[str]) -> list[float]:
        """See Client."""
        body = json.dumps(self._dialect.body(query, passages, self._template))
        headers = {"Content-Type": "application/json"}
        try:
            self._connection.request("POST", self._dialect.path, body, headers)
            reply = self._connection.getresponse()
            content = reply.read()
        except (OSError, http.client.HTTPException) as error:
            raise self._explain(f"{type(error).__name__}: {error}") from error
        if reply.status != 200:
            raise CandidateFailed(
                f"status {reply.status}: {content[:200].decode(errors='replace')}"
            )
        try:
            found = self._dialect.scores(json.loads(content))
        except (ValueError, KeyError, TypeError) as error:
            raise CandidateFailed(f"its reply cannot be read: {error!r}") from error
        return _checked(found, passages)

    def close(self) -> None:
        """See Client."""
        self._connection.close()


class Pool:
    """The running candidates of one model; `resident` ones stay running between their turns.

    No turn starts after `deadline`, in seconds of time.monotonic().
    """

    def __init__(self, model: BenchModel, graphs: dict[str, Path | str], deadline: float) -> None:
        self.model = model
        self.start_s: dict[str, list[float]] = {}
        self.peak_rss_bytes: dict[str, int] = {}
        self._graphs = graphs
        self._deadline = deadline
        self.resident = not model.large
        self._open: dict[str, Session] = {}

    @contextmanager
    def turn(self, candidate: Candidate) -> Iterator[tuple[Session, bool]]:
        """The running candidate, and whether it was just started.

        Raises PeerMissing or CandidateFailed; a candidate that fails inside the block is stopped.
        """
        session, fresh = self._take(candidate)
        try:
            yield session, fresh
        except BaseException:
            self._end(session)
            raise
        if self.resident:
            self._note_memory(session)
            session.pause()
        else:
            self._end(session)

    def close(self) -> None:
        """Stop all of them."""
        for session in list(self._open.values()):
            self._end(session)

    def _take(self, candidate: Candidate) -> tuple[Session, bool]:
        if time.monotonic() > self._deadline:
            raise PeerMissing("skipped: the time limit was reached")
        if candidate.name in self._open:
            session = self._open[candidate.name]
            session.resume()
            return session, False
        session = Session(candidate, self.model, self._graph(candidate))
        self._open[candidate.name] = session
        self.start_s.setdefault(candidate.name, []).append(session.start_s)
        return session, True

    def _graph(self, candidate: Candidate) -> Path | None:
        if reason := refusal(candidate, self.model):
            raise PeerMissing(reason)
        if candidate.graph is None:
            return None
        graph = self._graphs[candidate.graph]
        if isinstance(graph, str):
            raise PeerMissing(graph)
        return graph

    def _end(self, session: Session) -> None:
        self._note_memory(session)
        self._open.pop(session.candidate.name, None)
        session.close()

    def _note_memory(self, session: Session) -> None:
        name = session.candidate.name
        found = machine.peak_rss_bytes(session.group)
        self.peak_rss_bytes[name] = max(found, self.peak_rss_bytes.get(name, 0))


def refusal(candidate: Candidate, model: BenchModel) -> str:
    """Why the candidate is skipped on this model; "" when it runs."""
    if model.family not in candidate.families:
        return f"cannot run the {model.family} family"
    if model.large and candidate.small_only:
        return "skipped at this size: no new information"
    return ""


def _setting(candidate: Candidate, model: BenchModel, graph: Path | None, port: int) -> Setting:
    checkpoint = model.checkpoint if candidate.ours else model.peer_checkpoint
    return Setting(
        checkpoint=str(checkpoint),
        graph="" if graph is None else str(graph),
        work=str(model.folder / "work" / candidate.name),
        template=model.template,
        max_tokens=model.max_tokens,
        threads=machine.cores(),
        port=port,
        options=dict(candidate.options),
    )


def _checked(scores: list[float], passages: list[str]) -> list[float]:
    if len(scores) != len(passages) or not all(map(math.isfinite, scores)):
        raise CandidateFailed(f"found {len(scores)} scores, wanted {len(passages)} finite ones")
    return scores


def _in_order(pairs: Any) -> list[float]:
    return [score for _, score in sorted(pairs)]


def _answers(port: int, path: str) -> bool:
    with closing(http.client.HTTPConnection(_HOST, port, timeout=5)) as connection:
        try:
            connection.request("GET", path)
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
