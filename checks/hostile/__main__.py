"""`make hostile`: the effect of a table of hostile bodies on health and memory.

Each body has about the size of the default limit. The table has for each: how many are sent at
once, the answer, the longest latency of GET /v1/health/live meanwhile, and the peak of memory above
the idle server, as a multiple of the size of all that is sent. The goals are 250 ms and 6 times;
higher values are marked. Faults are a wrong answer, health that does not recover, a process that
ends, and 10 times: a text with one four-byte character takes four times its bytes in Python, beside
the message, the element and what is decoded so far. Stalls are no faults: other processes on the
machine cause them too.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from checks.faults.protocols import model_of
from checks.faults.target import Target
from checks.hostile.bodies import BODIES, FULL, MODEL, Body
from checks.hostile.sending import after_answer, chunks, send
from checks.hostile.watch import Health
from checks.others import Others
from checks.serving import Server

_STALL_S = 0.25
_TIMES = 6.0
_MAX_TIMES = 10.0
_KEY = "hostile"
_AT_ONCE = 3
_MANY_AT_ONCE = 8
# Bodies that are sent several times at once.
_TOGETHER = {
    "/v1/ranking empty objects",
    "/v1/ranking one text of escapes",
    "/v1/ranking gzip of white space",
    "/rerank one text of line ends",
    "/tokenize empty texts",
    f"/v2/models/{MODEL}/infer empty lists",
    f"/v2/models/{MODEL}/infer raw empty texts",
    "ModelInfer empty inputs",
    "ModelInfer empty texts",
    "ModelInfer one text",
    "ModelInfer one wide text",
}
_CHUNKS, _CHUNKED_AT_ONCE = 1_000_000, 4
_AFTER_BYTES = 400 << 20
_DRIP_S = 0.1


@dataclass(frozen=True)
class Case:
    """`prepare` makes the body and returns the function that sends it and returns the answer, which
    is called `at_once` times in parallel. `wanted` are the right answers."""

    name: str
    at_once: int
    wanted: frozenset[str]
    prepare: Callable[[], Callable[[], str]]


@dataclass(frozen=True)
class Found:
    """The result of a case; `times` is the memory as a multiple of all that was sent at once."""

    case: Case
    answers: list[str]
    stall_s: float
    times: float

    def faults(self) -> Iterator[str]:
        """Faults that are independent of the machine."""
        if wrong := sorted(set(self.answers) - self.case.wanted):
            yield f"answered {', '.join(wrong)}, wanted {' or '.join(sorted(self.case.wanted))}"
        if self.stall_s == float("inf"):
            yield "health did not answer"
        if self.times > _MAX_TIMES:
            yield f"{self.times:.1f} times the memory of what was sent, wanted {_MAX_TIMES:.0f}"

    def line(self) -> str:
        """A line of the table."""
        answers = "/".join(sorted(set(self.answers)))
        marks = " late" if self.stall_s > _STALL_S else ""
        marks += " large" if self.times > _TIMES else ""
        return (
            f"{self.case.name:62.62} {self.case.at_once:2} {answers:22.22} "
            f"{self.stall_s * 1e3:6.0f} ms {self.times:5.1f} x{marks}"
        )


def main() -> int:
    """0 when nothing was wrong."""
    parser = argparse.ArgumentParser(prog="python -m checks.hostile", description=__doc__)
    parser.add_argument("--rank", type=Path, default=Path("artifacts/rank"))
    parser.add_argument("--embed", type=Path, default=Path("artifacts/embed"))
    parser.add_argument("--mib", type=int, default=60, help="size of a body")
    parser.add_argument("--only", default="", help="prefix of the surfaces and bodies to send")
    chosen = parser.parse_args()
    given = {
        "RERANK_MODEL_DIR": str(chosen.rank.resolve()),
        "EMBED_MODEL_DIR": str(chosen.embed.resolve()),
        "NIM_REQUIRE_AUTH": "true",
        "NGC_API_KEY": _KEY,
        "NIM_LOG_LEVEL": "WARNING",
    }
    with Server(given) as server:
        to = Target(server.ready().url, key=_KEY, grpc=server.grpc_address, own=server)
        size = chosen.mib << 20
        cases = [one for one in _cases(to, size) if one.name.startswith(chosen.only)]
        found, faults = _all(to, server, cases, size)
        to.http.close()
        if "Traceback" in server.log:
            faults.append(f"a stack trace in the log: {server.log[-1000:]}")
    return _report(found, faults)


def _cases(to: Target, size: int) -> Iterator[Case]:
    model = model_of(to)
    for body in BODIES:
        surface = body.surface.replace(MODEL, model)
        for count in (1, _AT_ONCE, _MANY_AT_ONCE) if body.name in _TOGETHER else (1,):
            wanted = body.answers | (FULL if count > 1 else frozenset())
            yield Case(body.name, count, wanted, partial(_prepared, to, surface, body, size))
    named = "/v1/ranking"
    for keyed, wanted in ((False, frozenset({"401"})), (True, BODIES[0].answers | FULL)):
        what = f"{named} chunks of one byte {'with' if keyed else 'without'} a key"
        sent = partial(chunks, to, _CHUNKS, keyed=keyed)
        yield Case(what, _CHUNKED_AT_ONCE, wanted, partial(_as_is, sent))
    for method, path, answer in (("POST", named, "401"), ("GET", "/v1/health/live", "200")):
        for what, pause_s in (("400 MiB", 0.0), ("drops", _DRIP_S)):
            where = {"method": method, "path": path}
            sent = partial(after_answer, to, _AFTER_BYTES, **where, pause_s=pause_s)
            wanted = frozenset({f"{answer}, closed"})
            yield Case(f"{path} {what} after a {answer}", 1, wanted, partial(_as_is, sent))


def _prepared(to: Target, surface: str, body: Body, size: int) -> Callable[[], str]:
    return partial(send, to, surface, body.make(size), body.headers)


def _as_is(sent: Callable[[], str]) -> Callable[[], str]:
    return sent


def _all(to: Target, server: Server, cases: list[Case], size: int) -> tuple[list[Found], list[str]]:
    """The results of the cases, and the faults; stops when the server ends."""
    found: list[Found] = []
    faults: list[str] = []
    to.still_answers()  # memory that it keeps from its first request is no body's
    idle, others = server.resident_bytes(), Others()
    with Health(server.port) as health:
        for case in cases:
            found.append(_tried(server, health, case, idle, size))
            print(found[-1].line(), flush=True)
            faults += [f"{case.name}: {fault}" for fault in found[-1].faults()]
            if server.process.poll() is not None:
                faults.append(f"{case.name}: the process ended with {server.process.returncode}")
                break
            if not to.still_answers():
                faults.append(f"{case.name}: an ordinary request fails afterwards")
    print(f"idle {idle >> 20} MiB; other processes took {others.share():.0%} of the machine")
    return found, faults


def _tried(server: Server, health: Health, case: Case, idle: int, size: int) -> Found:
    sent = case.prepare()
    health.longest_s()
    server.forget_peak()
    with ThreadPoolExecutor(case.at_once) as pool:
        asked = [pool.submit(sent) for _ in range(case.at_once)]
        answers = [one.result() for one in asked]
    grown = server.peak_bytes() - idle
    return Found(case, answers, health.longest_s(), grown / (size * case.at_once))


def _report(found: list[Found], faults: list[str]) -> int:
    late = [one for one in found if one.stall_s > _STALL_S]
    stall_s = max((one.stall_s for one in found), default=0.0)
    large = [one for one in found if one.times > _TIMES]
    times = max((one.times for one in found), default=0.0)
    print(
        f"{len(found)} cases; longest stall {stall_s * 1e3:.0f} ms, {len(late)} over the aim of "
        f"{_STALL_S * 1e3:.0f}; most memory {times:.1f} times, {len(large)} over the aim of "
        f"{_TIMES:.0f}"
    )
    for fault in faults:
        print(f"FAULT {fault}")
    print(f"hostile: {len(faults)} faults" if faults else "hostile: nothing wrong")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
