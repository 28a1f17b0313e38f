"""`--target cpu-auto`: export for every CPU target that runs here, keep the fastest that is proven.

Each candidate climbs the same rungs as any export, by answers that the checkpoint gives once for
all. Those that are proven then take turns at the same texts for about a minute, the order reversed
each round. One model at a time is open, as five large ones do not fit into memory. What was
measured, and why a candidate fell out, stands in parity.json of the one that is kept.
"""

import shutil
import statistics
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import msgspec

from exporter.answers import Reference, VectorReference
from exporter.checkpoint import Checkpoint
from exporter.draft import Draft
from exporter.errors import ExportError, NothingFits
from exporter.library_texts import candidate_groups
from exporter.parity import COARSE
from exporter.parity_texts import Group
from exporter.pipeline import Wish, ask_witness, export
from exporter.progress import stage, tell
from exporter.report import Candidate, read_report, write_report
from exporter.tuning import timely_group, tokens_per_s
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

# Finest first: of two that are equally fast the finer one is kept.
CANDIDATES = ("cpu-fp32", "cpu-fp32-openvino", "cpu-bf16", "cpu-int8", "cpu-int8-openvino")
_MEASURE_S = 60.0
# Of a turn; enough texts for a full call of the engine or two.
_PASSES = 3
_FEWEST_TEXTS = 8


class _Contestant:
    """A target that is tried: where its artifact lies, its speeds by turns, why it fell out."""

    def __init__(self, target: str, directory: Path) -> None:
        self.target = target
        self.directory = directory
        self.speeds: list[float] = []
        self.refused: str | None = None

    @property
    def tokens_per_s(self) -> float | None:
        """The middle of its speeds; None where it fell out."""
        return statistics.median(self.speeds) if self.refused is None else None

    @contextmanager
    def falling_out(self) -> Iterator[None]:
        """What the block refuses puts it out."""
        try:
            yield
        except (ExportError, ServingError) as error:
            tell(f"{self.target} falls out: {error}")
            self.refused = str(error)


def export_fastest(source: str, out: Path, wish: Wish) -> Manifest:
    """Export `source` into `out` for the fastest of CANDIDATES that is proven here.

    `wish.target` and `wish.engine` are not looked at. Raises as `export` does, and NothingFits.
    """
    asking = _AskingOnce()
    with workspace(out) as directory:
        tried = [_Contestant(target, directory / target) for target in CANDIDATES]
        for one in tried:
            tell(f"candidate {one.target}")
            with one.falling_out():
                wanted = replace(wish, target=one.target, engine=None)
                export(source, one.directory, wanted, asking)
        with stage("measure the candidates"):
            _measure(tried)
        fastest = max(tried, key=lambda one: one.tokens_per_s or 0.0)
        if fastest.tokens_per_s is None:
            reasons = "; ".join(f"{one.target}: {one.refused}" for one in tried)
            raise NothingFits(f"found no target that can be proven on this machine: {reasons}")
        tell(f"keep {fastest.target}: {fastest.tokens_per_s:.0f} tokens a second")
        return _keep(directory, fastest.target, tried)


class _AskingOnce:
    """Asks the checkpoint at the first call, for all that any target wants to know, and hands each
    draft its part. No target of a CPU has shapes, so that all have the same longest row."""

    def __init__(self) -> None:
        self._kept: Reference | VectorReference | None = None

    def __call__(
        self, found: Draft, checkpoint: Checkpoint, *, unwitnessed: bool
    ) -> Reference | VectorReference:
        manifest = found.manifest
        if self._kept is None:
            coarse = msgspec.structs.replace(manifest, precision="int8")
            wider = replace(found, manifest=coarse)
            self._kept = ask_witness(wider, checkpoint, unwitnessed=unwitnessed)
        more = 0 if manifest.precision in COARSE else len(candidate_groups(manifest.max_tokens))
        return self._kept.only(range(len(self._kept.groups) - more))


def _measure(tried: Sequence[_Contestant]) -> None:
    """Whole rounds of turns, as many as end in time, but one in any case."""
    group: Group | None = None
    began = time.monotonic()
    rounds, round_s = 0, 0.0
    while not rounds or time.monotonic() - began + round_s < _MEASURE_S:
        round_began = time.monotonic()
        for one in tried if rounds % 2 == 0 else tried[::-1]:
            if one.refused is not None:
                continue
            with one.falling_out():
                group = _take_turn(one, group)
        rounds, round_s = rounds + 1, time.monotonic() - round_began
        if group is None:
            return
        figures = ", ".join(
            f"{one.target} {one.speeds[-1]:.0f}" for one in tried if not one.refused
        )
        tell(f"{time.monotonic() - began:.0f} s, round {rounds}: tokens a second: {figures}")


def _take_turn(one: _Contestant, group: Group | None) -> Group:
    """Note the speed of one turn at the texts, which the first turn chooses; what they are."""
    model = open_model(one.directory)
    try:
        model.warm_up()
        if group is None:
            group = timely_group(model, _PASSES * len(CANDIDATES), _MEASURE_S, _FEWEST_TEXTS)
        passes = [tokens_per_s(model, group) for _ in range(_PASSES)]
        one.speeds.append(statistics.median(passes))
    finally:
        model.close()
    return group


def _keep(directory: Path, target: str, tried: Sequence[_Contestant]) -> Manifest:
    """Leave in `directory` what was exported for `target`, with the comparison in parity.json."""
    chosen = (directory / target).rename(directory / "chosen")
    for path in list(directory.iterdir()):
        if path.is_file():
            path.unlink()  # the report of a candidate that failed
        elif path != chosen:
            shutil.rmtree(path)
    for path in list(chosen.iterdir()):
        path.rename(directory / path.name)
    chosen.rmdir()
    report = read_report(directory)
    report.candidates = [
        Candidate(target=one.target, tokens_per_s=one.tokens_per_s, refused=one.refused)
        for one in tried
    ]
    write_report(directory, report)
    manifest = read_manifest(directory)
    files = {**manifest.files, PARITY_FILE: hash_file(directory / PARITY_FILE)}
    manifest = msgspec.structs.replace(manifest, files=files)
    write_manifest(directory, manifest)
    return manifest
