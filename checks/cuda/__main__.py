"""`make check-cuda`: the real onnxruntime-gpu under a fake CUDA: every family, precision and card.

Builds the fake, writes the graphs, and holds what it sees to expected.toml: where work runs, which
kernels compute attention, copies, waits, captured CUDA graphs, errors. Replays on the CPU what the
CUDA provider makes of each graph, and starts a server for each family. Needs no GPU and shows
neither numbers of a GPU nor speed. Exit status 1 when something differs.
"""

import os
import shutil
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np

from checks.cuda import beside, service
from checks.cuda import expected as rules
from checks.cuda.expected import Expected, Opening
from checks.cuda.failing import Outcome, Question
from checks.cuda.families import (
    EMBEDS,
    INPUTS,
    OPT_IN,
    PIXELS,
    REPLAYED,
    SHARE_OF_1B,
    TARGETS,
    VALUES,
    Graph,
    make_graphs,
)
from checks.cuda.machine import WORK, Machine
from checks.cuda.padding import of_target
from checks.cuda.probe import Case, Facts, inputs_for
from checks.cuda.replay import Replay, replay
from checks.cuda.traffic import of_a_layer
from checks.serving import ServerFailed
from runtime.engines import MODEL_FILE, VISION_FILE
from runtime.profile import load_target_profile
from runtime.shapes import PLACES_INPUT
from runtime.telemetry import disable_telemetry

_SERVED = "cuda-fp16"
_FAILING, _BESIDE = "llama-last", "bert"
# The family whose layers are told for the 1B model, and the rows and tokens, without padding, for
# which bytes are counted.
_TOLD, _COUNTED = "llama", (2, 8)


class Setting(NamedTuple):
    """What every part of the check gets."""

    machine: Machine
    wanted: Expected
    cases: dict[str, tuple[Graph, Case]]


class Row(NamedTuple):
    """A row of a table, which begins with a name, and what is wrong with what it says."""

    cells: Sequence[str]
    complaints: Sequence[str] = ()


def main() -> int:
    """Run everything, and print a table for each part."""
    disable_telemetry()
    wanted, began = rules.load(), time.monotonic()
    machine = Machine.built()
    graphs = make_graphs(WORK / "graphs")
    print(f"{len(graphs)} graphs written, {time.monotonic() - began:.0f} s", flush=True)
    cases = {case.name: (graph, case) for graph in graphs for case in cases_of(graph)}
    setting = Setting(machine, wanted, cases)
    wrong: list[str] = []
    for header, part in _PARTS.items():
        print(f"\n| {header} |\n|{'---|' * (header.count('|') + 1)}")
        for row in part(setting):
            print(f"| {' | '.join(row.cells)} |", flush=True)
            wrong += (f"{row.cells[0]}: {complaint}" for complaint in row.complaints)
    print("", *wrong, sep="\n")
    print(f"{len(wrong)} differences, {time.monotonic() - began:.0f} s")
    return 1 if wrong else 0


def cases_of(graph: Graph) -> Iterator[Case]:
    """Its text graph, and its tower if it has one."""
    for file, ending in ((MODEL_FILE, ""), (VISION_FILE, " tower")):
        # A tower is the same for a target that is off.
        if (graph.directory / file).exists() and not (ending and graph.target in OPT_IN):
            yield Case(
                f"{graph.family}{ending}-{graph.target}",
                str(graph.directory),
                str(graph.recorded),
                load_target_profile(graph.target).precision,
                bool(ending),
            )


def _probed(setting: Setting) -> Iterator[Row]:
    """Every graph on every card; cards with the same facts share a line."""
    asked = [case for graph, case in setting.cases.values() if graph.target in (*TARGETS, *OPT_IN)]
    found: dict[str, dict[bytes, list[int]]] = defaultdict(lambda: defaultdict(list))
    for sm in setting.wanted.capabilities:
        answer = setting.machine.ask("checks.cuda.probe", asked, dict[str, Facts], sm)
        for name, facts in answer.items():
            found[name][msgspec.json.encode(facts)].append(sm)
    for name, by_facts in found.items():
        target = setting.cases[name][0].target
        rule = setting.wanted.rule(name.removesuffix(f"-{target}"), target)
        for encoded, cards in by_facts.items():
            facts = msgspec.json.decode(encoded, type=Facts)
            listed = " ".join(map(str, cards))
            complaints = list(rules.differing(setting.wanted, rule, facts))
            yield Row((name, listed, *_cells(facts), rule.reason), complaints)


def _cells(facts: Facts) -> Sequence[str]:
    if facts.plain is None or facts.replay is None:
        return ("-",) * 6
    call = facts.plain
    kinds = ", ".join(f"{count} {kind}" for kind, count in call.attention.items())
    launches = f"{call.kernels}+{call.products}"
    copies = f"{call.to_device}+{call.to_host}"
    captured = "replayed" if facts.replay.replayed else "no"
    return kinds, str(call.a_layer), launches, copies, str(call.waits), captured


def _opened(setting: Setting) -> Iterator[Row]:
    """Openings that fail, or need more."""
    for opening in setting.wanted.openings:
        _, case = setting.cases[opening.graph]
        (facts,) = _facts(setting.machine, opening, case)
        complaints = list(rules.misopened(opening, facts))
        said = (facts.error or "opens").partition(":")[0]
        yield Row((opening.what, opening.graph, said), complaints)


def _facts(machine: Machine, opening: Opening, case: Case) -> Sequence[Facts]:
    libraries = [machine.libraries, *([machine.cudnn] if opening.cudnn else [])]
    if opening.without:
        libraries = [_without(machine.libraries, opening.without)]
    answer = machine.ask(
        "checks.cuda.probe",
        [case],
        dict[str, Facts],
        opening.sm,
        *libraries,
        **opening.settings,
    )
    return list(answer.values())


def _without(libraries: Path, name: str) -> Path:
    """A folder of all but one of them."""
    some = WORK / f"without-{name}"
    shutil.rmtree(some, ignore_errors=True)
    some.mkdir()
    for file in libraries.glob("*.so.*"):
        if file.name != name:
            os.link(file, some / file.name)
    return some


def _failed(setting: Setting) -> Iterator[Row]:
    """Calls that fail."""
    _, case = setting.cases[f"{_FAILING}-{_SERVED}"]
    for failure, outcome in setting.wanted.calls.items():
        lost = WORK / "lost"
        lost.unlink(missing_ok=True)
        question = Question(failure, case)
        found = setting.machine.ask("checks.cuda.failing", question, Outcome, FAKE_LOST=str(lost))
        complaints = [f"found {found}, wanted {outcome}"] if found != outcome else []
        says = [one or "computed" for one in (found.error, found.afterwards)]
        yield Row((failure.replace("_", " "), *says), complaints)


def _beside(setting: Setting) -> Iterator[Row]:
    """A captured graph while another model of the process is called."""
    cases = [setting.cases[f"{family}-{_SERVED}"][1] for family in (_FAILING, _BESIDE)]
    found = setting.machine.ask(
        "checks.cuda.beside",
        beside.Question(*cases),
        beside.Outcome,
        FAKE_HOLD=str(WORK / "hold"),
    )
    wanted = beside.Outcome(captured=1, waited=True, illegal=[])
    complaints = [f"found {found}, wanted {wanted}"] if found != wanted else []
    yield Row((_FAILING, _BESIDE, "waits" if found.waited else "does not wait"), complaints)


def _replayed(setting: Setting) -> Iterator[Row]:
    """What the provider makes of each graph, on the CPU."""
    asked = [case for _, case in setting.cases.values()]
    paths = setting.machine.ask("checks.cuda.optimized", asked, dict[str, str])
    for _, case in setting.cases.values():
        found = _replay(case, Path(paths[case.name]))
        far = (found.from_ours, found.from_pytorch, found.rounded)
        cells = [f"{one:.3f}" for one in far]
        yield Row((case.name, *cells, ", ".join(found.missing) or "none"), found.complaints)


def _layers(setting: Setting) -> Iterator[Row]:
    """What the layers of each graph in fp16 read and write."""
    rows, length = _COUNTED
    asked = [
        (graph, case)
        for graph, case in setting.cases.values()
        if graph.target in (TARGETS[0], *OPT_IN) and case.precision == "fp16" and not case.tower
    ]
    question = [case for _, case in asked]
    paths = setting.machine.ask("checks.cuda.optimized", question, dict[str, str])
    for graph, case in asked:
        inputs = {**inputs_for(case, rows, length), PLACES_INPUT: np.arange(rows * length)}
        inputs["attention_mask"] = np.ones_like(inputs["attention_mask"])
        layer = of_a_layer(Path(paths[case.name]), inputs, rows * length)
        kilobytes, complaints = layer.kilobytes(SHARE_OF_1B), []
        if graph.family == _TOLD:
            complaints = list(
                rules.heavier(setting.wanted.layers[graph.target], layer.casts, kilobytes)
            )
        told = f"{kilobytes:.1f}" if graph.family == _TOLD else "-"
        yield Row((case.name, str(layer.casts), f"{layer.states:.1f}", told), complaints)


def _padded(setting: Setting) -> Iterator[Row]:
    """Tokens that are computed for a request of mixed lengths."""
    for target, most in setting.wanted.padding.items():
        found = of_target(load_target_profile(target))
        complaint = f"{found.share:.1%} of what is computed is padding, wanted at most {most:.1%}"
        cells = (target, *map(str, found), f"{found.share:.1%}")
        yield Row(cells, [complaint] if found.share > most else [])


def _replay(case: Case, optimized: Path) -> Replay:
    recorded = Path(case.recorded)
    if case.tower:
        inputs = {"pixel_values": np.load(recorded / PIXELS)}
    else:
        with np.load(recorded / INPUTS) as file:
            inputs = dict(file)
        inputs[PLACES_INPUT] = np.flatnonzero(inputs["attention_mask"])
    values = np.load(recorded / (EMBEDS if case.tower else VALUES))
    ours = Path(case.directory) / (VISION_FILE if case.tower else MODEL_FILE)
    return replay(optimized, ours, inputs, values, case.precision)


def _served(setting: Setting) -> Iterator[Row]:
    """A server for each family, one that replays graphs, one for each target that is off, and two
    with a failing card."""
    graphs = {graph.family: graph for graph, _ in setting.cases.values() if graph.target == _SERVED}
    for family, graph in graphs.items():
        yield _said(family, partial(service.answers, setting.machine, graph.directory, graph.kind))
    replayed, _ = setting.cases["-".join(REPLAYED)]
    yield _said(replayed.target, partial(service.replays, setting.machine, replayed.directory))
    for target in OPT_IN:
        graph, _ = setting.cases[f"{_TOLD}-{target}"]
        profile = {"NIM_MODEL_PROFILE": target}
        answers = partial(service.answers, setting.machine, graph.directory, graph.kind, **profile)
        yield _said(target, answers)
    for play in service.FAILURES:
        served = partial(play, setting.machine, graphs[_FAILING].directory)
        yield _said(play.__name__.replace("_", " "), served)


def _said(name: str, serve: Callable[[], str]) -> Row:
    try:
        return Row((name, serve()))
    except (AssertionError, ServerFailed) as error:
        return Row((name, "failed"), [str(error)])


_PARTS: dict[str, Callable[[Setting], Iterator[Row]]] = {
    "graph | cards | attention | launches a layer | kernels + products | copies in + out | waits "
    "| small calls | reason": _probed,
    "opening | graph | ends with": _opened,
    "a call that fails | error | the next, small call": _failed,
    "captures a graph | is called meanwhile | and": _beside,
    "graph that runs, on the CPU | from ours | from PyTorch | rounded | no kernel": _replayed,
    "a layer of | casts | half-precision states a token | KB a token of 1B": _layers,
    "100 mixed passages | calls | real tokens | in attention | elsewhere | padding there": _padded,
    "server | answers": _served,
}

if __name__ == "__main__":
    sys.exit(main())
