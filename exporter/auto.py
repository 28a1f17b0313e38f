"""`--target cpu-auto`: export for every CPU target that runs here, keep the fastest that is proven.

Each candidate climbs the same rungs as any export, then ranks real texts for a while. What was
measured, and why a candidate fell out, stands in parity.json of the one that is kept.
"""

import shutil
import statistics
import time
from pathlib import Path

import msgspec

from exporter.errors import ExportError, NothingFits
from exporter.library_texts import candidate_groups
from exporter.pipeline import Wish, export
from exporter.progress import stage, tell
from exporter.report import Candidate, read_report, write_report
from exporter.workspace import workspace
from runtime.embedder import Embedder
from runtime.errors import ServingError
from runtime.manifest import (
    PARITY_FILE,
    Manifest,
    hash_file,
    read_manifest,
    write_manifest,
)
from runtime.model import Model
from runtime.opening import open_model
from runtime.ranker import Ranker

# Finest first: of two that are equally fast the finer one is kept.
CANDIDATES = ("cpu-fp32", "cpu-fp32-openvino", "cpu-bf16", "cpu-int8", "cpu-int8-openvino")
_MEASURE_S = 15.0
_FEWEST_ROUNDS = 3


def export_fastest(source: str, out: Path, wish: Wish) -> Manifest:
    """Export `source` into `out` for the fastest of CANDIDATES that is proven here.

    `wish.target` and `wish.engine` are not looked at. Raises as `export` does, and NothingFits.
    """
    tried: list[Candidate] = []
    with workspace(out) as directory:
        for target in CANDIDATES:
            tell(f"candidate {target}")
            tried.append(_try(source, directory / target, wish, target))
        fastest = max(tried, key=lambda one: one.tokens_per_s or 0.0)
        if fastest.tokens_per_s is None:
            reasons = "; ".join(f"{one.target}: {one.refused}" for one in tried)
            raise NothingFits(f"found no target that can be proven on this machine: {reasons}")
        tell(f"keep {fastest.target}: {fastest.tokens_per_s:.0f} tokens a second")
        return _keep(directory, fastest.target, tried)


def _try(source: str, directory: Path, wish: Wish, target: str) -> Candidate:
    try:
        export(source, directory, Wish(wish.profile, target, wish.max_tokens))
        with stage(f"measure {target}"):
            return Candidate(target=target, tokens_per_s=_tokens_per_s(directory))
    except (ExportError, ServingError) as error:
        tell(f"{target} falls out: {error}")
        return Candidate(target=target, refused=str(error))


def _tokens_per_s(directory: Path) -> float:
    """The median speed over rounds through all candidate groups, one group a request."""
    model = open_model(directory)
    try:
        model.warm_up()
        speeds: list[float] = []
        end = time.monotonic() + _MEASURE_S
        while len(speeds) < _FEWEST_ROUNDS or time.monotonic() < end:
            before, began = model.stats().real_tokens, time.monotonic()
            _one_round(model)
            speeds.append((model.stats().real_tokens - before) / (time.monotonic() - began))
        return statistics.median(speeds)
    finally:
        model.close()


def _one_round(model: Model) -> None:
    for group in candidate_groups(model.info.max_tokens):
        if isinstance(model, Ranker):
            model.rank(group.query, group.passages, truncate="END")
        elif isinstance(model, Embedder):
            model.embed(group.passages, input_type="passage", truncate="END")


def _keep(directory: Path, target: str, tried: list[Candidate]) -> Manifest:
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
    report.candidates = tried
    write_report(directory, report)
    manifest = read_manifest(directory)
    files = {**manifest.files, PARITY_FILE: hash_file(directory / PARITY_FILE)}
    manifest = msgspec.structs.replace(manifest, files=files)
    write_manifest(directory, manifest)
    return manifest
