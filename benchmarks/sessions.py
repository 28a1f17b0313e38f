"""Run candidates: each in its own process, one active at a time."""

import http.client
import json
import math
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import machine
from benchmarks.environments import ROOT, PeerMissing, child_variables, interpreter
from benchmarks.models import BenchModel
from benchmarks.protocol import Setting, templated
from benchmarks.roster import Candidate, Speaks
from checks.load import by_index
from checks.ports import free_port

_START_S = 600.0
_ANSWER_S = 600.0
_STOP_S = 20.0


class CandidateFailed(Exception):
    """A candidate ended, hung or refused; the message says how."""


class Dialect(NamedTuple):
    """The HTTP contract of a kind of candidate: the paths of health and ranking, the body made of
    query, passages and template, and the raw logits of a reply in the order of the passages."""

    ready: str
    path: str
    body: Callable[[str, list[str], str | None], dict[str, Any]]
    scores: Callable[[dict[str, Any]], list[float]]


def _plain(query: str, passages: list[str], _: str | None) -> dict[str, Any]:
    return {"query": query, "passages": passages}


def _nim(query: str, passages: list[str], _: str | None) -> dict[str, Any]:
    texts = [{"text": passage} for passage in passages]
    return {"query": {"text": query}, "passages": texts, "truncate": "END"}


def _infinity(query: str, passages: list[str], template: str | None) -> dict[str, Any]:
    asked = query if template is None else templated(template, query, "")
    return {"model": "bench", "query": asked, "documents": passages, "raw_scores": True}


DIALECTS: dict[Speaks, Dialect] = {
    "plain": Dialect("/health", "/rerank", _plain, lambda reply: list(reply["scores"])),
    "nim": Dialect(
        "/v1/health/ready", "/v1/ranking", _nim, lambda reply: by_index(reply["rankings"], "logit")
    ),
    "infinity": Dialect(
        "/health",
        "/rerank",
        _infinity,
        lambda reply: by_index(reply["results"], "relevance_score"),
    ),
}


class Session:
    """One running candidate."""

    def __init__(self, candidate: Candidate, model: BenchModel, graph: str) -> None:
        """Start it and wait until it can score. Raises PeerMissing or CandidateFailed."""
        self.candidate = candidate
        self.template = model.template
        self.dialect = DIALECTS[candidate.speaks]
        self._log = model.folder / "logs" / f"{candidate.name}.log"
        self._log.parent.mkdir(parents=True, exist_ok=True)
        self._port = free_port()
        command = [
            *(str(interpreter(candidate.peer)), "-m", "benchmarks.candidates", candidate.module),
            json.dumps(asdict(_setting(candidate, model, graph, self._port))),
        ]
        began = time.monotonic()
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=child_variables(),
                stdin=subprocess.DEVNULL,
                stdout=log,
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

    def connection(self, timeout_s: float = _ANSWER_S) -> http.client.HTTPConnection:
        """A connection, not yet open."""
        return http.client.HTTPConnection("127.0.0.1", self._port, timeout=timeout_s)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to all its processes. SIGSTOP: take no time from the active candidate."""
        os.killpg(self.group, number)

    def close(self) -> None:
        """Stop the candidate and every process that it started."""
        with suppress(ProcessLookupError):
            self.signal(signal.SIGCONT)
            self.signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_S)
            self.signal(signal.SIGKILL)
        self._process.wait()

    def explain(self, what: str) -> CandidateFailed:
        """The error, with the end of its log when it has ended."""
        time.sleep(0.1)  # after its connection closes, the process ends
        status = self._process.poll()
        if status is None:
            return CandidateFailed(what)
        lines = self._log.read_text(errors="replace").splitlines()
        last = next((line.strip() for line in reversed(lines) if line.strip()), "no output")
        return CandidateFailed(f"ended with status {status}: {last[:300]}")

    def _wait_until_ready(self) -> None:
        give_up = time.monotonic() + _START_S
        while time.monotonic() < give_up and self._process.poll() is None:
            with (
                suppress(OSError, http.client.HTTPException),
                closing(self.connection(timeout_s=5)) as connection,
            ):
                connection.request("GET", self.dialect.ready)
                if connection.getresponse().status == 200:
                    return
            time.sleep(0.1)
        raise self.explain(f"not ready within {_START_S:.0f} s")


class Client:
    """A client of a candidate with one persistent connection; a server may have several."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._connection = session.connection()

    def score(self, query: str, passages: list[str]) -> list[float]:
        """Raw logits in the order of the passages. Raises CandidateFailed."""
        dialect = self._session.dialect
        body = json.dumps(dialect.body(query, passages, self._session.template))
        try:
            self._connection.request(
                "POST", dialect.path, body, {"Content-Type": "application/json"}
            )
            reply = self._connection.getresponse()
            content = reply.read()
        except (OSError, http.client.HTTPException) as error:
            raise self._session.explain(f"{type(error).__name__}: {error}") from error
        if reply.status != 200:
            text = content[:500].decode(errors="replace")
            raise CandidateFailed(f"status {reply.status}: {text}")
        try:
            scores = dialect.scores(json.loads(content))
        except (ValueError, KeyError, TypeError) as error:
            raise CandidateFailed(f"its reply cannot be read: {error!r}") from error
        if len(scores) != len(passages) or not all(map(math.isfinite, scores)):
            raise CandidateFailed(f"found {len(scores)} scores, wanted {len(passages)} finite ones")
        return scores

    def close(self) -> None:
        """End the connection."""
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
        if time.monotonic() > self._deadline:
            raise PeerMissing("skipped: the time limit was reached")
        session = self._open.get(candidate.name)
        fresh = session is None
        if session is None:
            session = Session(candidate, self.model, self._graph(candidate))
            self._open[candidate.name] = session
            self.start_s.setdefault(candidate.name, []).append(session.start_s)
        else:
            session.signal(signal.SIGCONT)
        try:
            yield session, fresh
        except BaseException:
            self._end(session)
            raise
        if self.resident:
            self._note_memory(session)
            session.signal(signal.SIGSTOP)
        else:
            self._end(session)

    def close(self) -> None:
        """Stop all of them."""
        for session in list(self._open.values()):
            self._end(session)

    def _graph(self, candidate: Candidate) -> str:
        graph = self._graphs.get(candidate.graph or "", "")
        if reason := refusal(candidate, self.model) or (graph if isinstance(graph, str) else ""):
            raise PeerMissing(reason)
        return str(graph)

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


def _setting(candidate: Candidate, model: BenchModel, graph: str, port: int) -> Setting:
    checkpoint = model.checkpoint if candidate.ours else model.peer_checkpoint
    return Setting(
        checkpoint=str(checkpoint),
        graph=graph,
        work=str(model.folder / "work" / candidate.name),
        template=model.template,
        max_tokens=model.max_tokens,
        threads=machine.cores(),
        port=port,
        options=dict(candidate.options),
    )
