"""`--target cpu-auto`: export for every CPU target that runs here, keep the fastest that is proven.

Each candidate must pass the same rungs as any export; the witness answers once for all of them, and
engines of one precision share a graph.
The proven ones are then measured in turns on the same texts for about a minute, in reverse order
every other round. Only one model is open at a time, as five large ones do not fit into memory.
Speeds, and why a candidate was refused, are in parity.json of the chosen artifact.
"""

import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec

from exporter.answers import Reference
from exporter.checkpoint import Checkpoint
from exporter.draft import Draft
from exporter.errors import ExportError, NoTargetProven
from exporter.library_texts import candidate_groups
from exporter.parity_texts import Group
from exporter.pipeline import ExportArgs, export
from exporter.progress import print_line, stage
from exporter.reference import ask_witness
from exporter.report import Candidate, read_report, write_report
from exporter.target_graph import bring_graph, round_graph, write_graph
from exporter.tolerances import LOW_PRECISIONS
from exporter.tuning import group_within_time, tokens_per_s
from exporter.workspace import workspace
from runtime.errors import ServingError
from runtime.manifest import (
    PARITY_FILE,
    Manifest,
    hash_file,
    read_manifest,
    write_manifest,
)
from runtime.opening import open_model
from runtime.profile import TargetProfile, load_target_profile

# Highest precision first: it wins where two are equally fast.
CANDIDATES = ("cpu-fp32", "cpu-fp32-openvino", "cpu-bf16", "cpu-int8", "cpu-int8-openvino")
_FLOATS = "fp32"
_MEASURE_S = 60.0
# Passes of one turn. At least this many texts, enough for a full engine call or two.
_PASSES = 3
_FEWEST_TEXTS = 8


@dataclass
class _CandidateRun:
    """One target: its artifact directory, its speed in each turn, why it was refused."""

    target: str
    directory: Path
    speeds: list[float] = field(default_factory=list)
    refused: str | None = None

    @property
    def tokens_per_s(self) -> float | None:
        """The median of its speeds; None if it was refused."""
        return statistics.median(self.speeds) if self.refused is None else None

    @contextmanager
    def catching_refusal(self) -> Iterator[None]:
        """Record a refusal in the block as the reason why this target is not used."""
        try:
            yield
        except (ExportError, ServingError) as error:
            print_line(f"{self.target} is refused: {error}")
            self.refused = str(error)


def export_fastest(source: str, out: Path, args: ExportArgs) -> Manifest:
    """Export `source` into `out` for the fastest of CANDIDATES that is proven here.

    `args.target` and `args.engine` are ignored. Raises as `export` does, and NoTargetProven.
    """
    ask, graphs = _CachedWitness(), _SharedGraphs()
    with workspace(out) as directory, tempfile.TemporaryDirectory(dir=directory) as tried:
        candidates = [_CandidateRun(target, Path(tried) / target) for target in CANDIDATES]
        for candidate in candidates:
            print_line(f"candidate {candidate.target}")
            with candidate.catching_refusal():
                candidate_args = replace(args, target=candidate.target, engine=None)
                export(source, candidate.directory, candidate_args, ask, graphs)
                graphs.add(candidate.target, candidate.directory)
        with stage("measure the candidates"):
            _measure(candidates)
        fastest = max(candidates, key=lambda candidate: candidate.tokens_per_s or 0.0)
        if fastest.tokens_per_s is None:
            reasons = "; ".join(f"{one.target}: {one.refused}" for one in candidates)
            raise NoTargetProven(f"found no target that can be proven on this machine: {reasons}")
        print_line(f"keep {fastest.target}: {fastest.tokens_per_s:.0f} tokens a second")
        for path in list(fastest.directory.iterdir()):
            path.rename(directory / path.name)
        return _with_comparison(directory, candidates)


class _SharedGraphs:
    """A MakeGraph that takes what earlier candidates have made: a float32 graph serves all engines,
    in bf16 too, and is what int8 is rounded from."""

    def __init__(self) -> None:
        self._made: dict[str, Path] = {}

    def add(self, target: str, directory: Path) -> None:
        """The finished artifact of a target, which stays in `directory`."""
        self._made.setdefault(_graph_of(load_target_profile(target)), directory)

    def __call__(
        self, checkpoint: Checkpoint, manifest: Manifest, target: TargetProfile, directory: Path
    ) -> None:
        wanted = _graph_of(target)
        source = self._made.get(wanted) or self._made.get(_FLOATS)
        if source is None:
            write_graph(checkpoint, target, directory)
        else:
            bring_graph(source, directory, link=wanted in self._made)
        if wanted not in self._made:
            round_graph(directory, manifest, target)


def _graph_of(target: TargetProfile) -> str:
    return target.precision if target.precision == "int8" else _FLOATS


class _CachedWitness:
    """Asks the witness once, for the texts of every target, and returns each draft its part.

    CPU targets have no shapes, so that all have the same longest row."""

    def __init__(self) -> None:
        self._kept: Reference | None = None

    def __call__(self, found: Draft, checkpoint: Checkpoint, *, unwitnessed: bool) -> Reference:
        manifest = found.manifest
        if self._kept is None:
            low_precision = msgspec.structs.replace(manifest, precision="int8")
            wider = replace(found, manifest=low_precision)
            self._kept = ask_witness(wider, checkpoint, unwitnessed=unwitnessed)
        kept = len(self._kept.groups)
        if manifest.precision not in LOW_PRECISIONS:
            kept -= len(candidate_groups(manifest.max_tokens))
        return self._kept.only(range(kept))


def _measure(candidates: Sequence[_CandidateRun]) -> None:
    """Measure complete rounds, as many as end in time, at least one."""
    group: Group | None = None
    began = time.monotonic()
    rounds, round_s = 0, 0.0
    while not rounds or time.monotonic() - began + round_s < _MEASURE_S:
        round_began = time.monotonic()
        for candidate in candidates if rounds % 2 == 0 else candidates[::-1]:
            if candidate.refused is not None:
                continue
            with candidate.catching_refusal():
                group = _take_turn(candidate, group)
        rounds, round_s = rounds + 1, time.monotonic() - round_began
        if group is None:
            return
        proven = [one for one in candidates if not one.refused]
        figures = ", ".join(f"{one.target} {one.speeds[-1]:.0f}" for one in proven)
        print_line(f"{time.monotonic() - began:.0f} s, round {rounds}: tokens a second: {figures}")


def _take_turn(candidate: _CandidateRun, group: Group | None) -> Group:
    """Measure one turn on `group`, which the first turn chooses and returns."""
    with closing(open_model(candidate.directory)) as model:
        model.warm_up()
        if group is None:
            group = group_within_time(model, _PASSES * len(CANDIDATES), _MEASURE_S, _FEWEST_TEXTS)
        passes = [tokens_per_s(model, group) for _ in range(_PASSES)]
        candidate.speeds.append(statistics.median(passes))
    return group


def _with_comparison(directory: Path, candidates: Sequence[_CandidateRun]) -> Manifest:
    """Write the comparison into parity.json of the artifact, and return its new manifest."""
    report = read_report(directory)
    report.candidates = [
        Candidate(target=one.target, tokens_per_s=one.tokens_per_s, refused=one.refused)
        for one in candidates
    ]
    write_report(directory, report)
    manifest = read_manifest(directory)
    files = {**manifest.files, PARITY_FILE: hash_file(directory / PARITY_FILE)}
    manifest = msgspec.structs.replace(manifest, files=files)
    write_manifest(directory, manifest)
    return manifest
