"""What is expected, from expected.toml, and what differs from it."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import msgspec

from checks.cuda.failing import Outcome
from checks.cuda.probe import Facts
from checks.cuda.trace import Counts

_FILE = Path(__file__).with_name("expected.toml")


class Graph(msgspec.Struct, forbid_unknown_fields=True):
    """Of one graph, on every card."""

    inputs: int
    attention: dict[str, int]
    a_layer: int
    empty: int = 0
    captured: bool = True
    reason: str = ""


class OptIn(msgspec.Struct, forbid_unknown_fields=True):
    """Of the graphs of a target that is off: inputs and launches a layer `more` than the default's,
    or `a_layer` of a graph."""

    inputs: int
    more: int
    a_layer: dict[str, int]


class Layer(msgspec.Struct, forbid_unknown_fields=True):
    """Of a layer of the 1B model: casts, and KB a token beside products and attention."""

    casts: int
    kilobytes: float


class Opening(msgspec.Struct, forbid_unknown_fields=True):
    """One way to open `graph`, and the `error` (a pattern) or the attention of a call."""

    what: str
    graph: str
    sm: int = 90
    without: str = ""
    cudnn: bool = False
    settings: dict[str, str] = {}
    error: str = ""
    attention: dict[str, int] = {}


class Expected(msgspec.Struct, forbid_unknown_fields=True):
    """The whole file."""

    capabilities: list[int]
    elsewhere: list[str]
    call: dict[str, int]
    replay: dict[str, int]
    graphs: dict[str, Graph]
    opt_in: dict[str, OptIn]
    layers: dict[str, Layer]
    padding: dict[str, float]
    openings: list[Opening]
    calls: dict[str, Outcome]

    def rule(self, graph: str, target: str) -> Graph:
        """What is expected of a family's graph for a target."""
        rule, changed = self.graphs[graph], self.opt_in.get(target)
        if changed is None:
            return rule
        return msgspec.structs.replace(
            rule,
            inputs=rule.inputs + changed.inputs,
            a_layer=changed.a_layer.get(graph, rule.a_layer + changed.more),
        )


def load() -> Expected:
    """Read the file. Raises msgspec.ValidationError."""
    return msgspec.convert(tomllib.loads(_FILE.read_text("utf-8")), Expected)


def differing(expected: Expected, wanted: Graph, facts: Facts) -> Iterator[str]:
    """What of one graph's facts is not as wanted."""
    if facts.error is not None:
        yield facts.error
        return
    assert facts.plain is not None
    assert facts.capture is not None
    assert facts.replay is not None
    if unknown := sorted(facts.elsewhere.keys() - expected.elsewhere):
        yield f"on the CPU: {', '.join(unknown)}"
    yield from _attention(wanted.attention, facts.plain)
    yield from _more(expected.call | {"to_device": wanted.inputs}, facts.plain, "a call")
    yield from _more({"a_layer": wanted.a_layer}, facts.plain, "a call")
    for counts in (facts.plain, facts.capture, facts.replay):
        if counts.cudnn:
            yield f"{counts.cudnn} uses of cuDNN"
        for what in ("illegal", "frozen", "unanswered"):
            yield from (f"{what}: {one}" for one in getattr(counts, what))
    if wanted.captured:
        yield from _replayed(expected, wanted, facts.capture, facts.replay)
    elif facts.capture.captured:
        yield "small calls are captured"


def heavier(wanted: Layer, casts: int, kilobytes: float) -> Iterator[str]:
    """What of a layer is more than wanted."""
    if casts > wanted.casts:
        yield f"{casts} casts a layer, wanted at most {wanted.casts}"
    if kilobytes > wanted.kilobytes:
        yield f"{kilobytes:.1f} KB a token and layer, wanted at most {wanted.kilobytes}"


def misopened(wanted: Opening, facts: Facts) -> Iterator[str]:
    """What of an opening is not as wanted."""
    if wanted.error:
        if not re.match(wanted.error, facts.error or "", re.DOTALL):
            yield f"found {facts.error or 'no error'}, wanted {wanted.error}"
    elif facts.error or facts.plain is None:
        yield facts.error or "no call"
    else:
        yield from _attention(wanted.attention, facts.plain)


def _replayed(expected: Expected, wanted: Graph, capture: Counts, replay: Counts) -> Iterator[str]:
    if (capture.captured, replay.replayed, replay.captured) != (1, 1, 0):
        yield "small calls are not captured once and replayed then"
    if launched := replay.kernels + replay.products:
        yield f"{launched} launches beside the replayed graph"
    waits = wanted.inputs + wanted.empty + 1
    bounds = {"to_device": wanted.inputs, "waits": waits, "taken": 0}
    yield from _more(expected.replay | bounds, replay, "a replay")


def _attention(wanted: dict[str, int], counts: Counts) -> Iterator[str]:
    if counts.attention != wanted:
        yield f"attention {counts.attention}, wanted {wanted}"


def _more(most: dict[str, int], counts: Counts, what: str) -> Iterator[str]:
    for name, bound in most.items():
        if (found := getattr(counts, name)) > bound:
            yield f"{name} of {what} {found}, wanted at most {bound}"
