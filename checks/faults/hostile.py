"""Group 16: small bodies that decode to many objects, from the table of `make hostile`."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial

from checks.faults.fault import Fault, NotApplicable, expect
from checks.faults.protocols import model_of
from checks.faults.target import Stopwatch, Target
from checks.hostile.bodies import BODIES, MODEL, Body
from checks.hostile.sending import send

_HOSTILE = "16 hostile"
_BYTES = 8 << 20
# Allowed memory for a body: a multiple of its size, plus the interpreter's overhead.
_TIMES = 6
_BESIDE_BYTES = 32 << 20
_HEALTH_S = 1.0


def _tried(body: Body, target: Target) -> None:
    surface = _surface(body, target)
    sent = body.make(min(_BYTES, target.body_limit_bytes - 1024))
    before = 0
    if target.own:
        before = target.own.resident_bytes()
        target.own.forget_peak()
    watch = Stopwatch(target)
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(send, target, surface, sent, body.headers)
        longest_s = watch.longest(lambda: target.http.get("/v1/health/live"), [asked])
    answer = asked.result()
    expect(answer in body.answers, f"answered {answer}, wanted {' or '.join(sorted(body.answers))}")
    if target.own:
        grown, most = target.own.peak_bytes() - before, _TIMES * len(sent) + _BESIDE_BYTES
        expect(grown <= most, f"took {grown >> 20} MiB for {len(sent) >> 20}, at most {most >> 20}")
    watch.expect(_HEALTH_S, "health", longest_s)


def _surface(body: Body, target: Target) -> str:
    if not body.surface.startswith("/"):
        target.grpc_address()
        return body.surface
    path = body.surface.replace(MODEL, model_of(target)) if MODEL in body.surface else body.surface
    if not target.serves(path, {}):
        raise NotApplicable(f"no {body.surface}")
    return path


FAULTS: tuple[Fault, ...] = tuple(Fault(_HOSTILE, one.name, partial(_tried, one)) for one in BODIES)
