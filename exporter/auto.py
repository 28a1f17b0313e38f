"""`--target cpu-auto`: export for every CPU target that runs here, keep the fastest that is proven.

Each candidate climbs the same rungs as any export, then ranks real texts for a while. What was
measured, and why a candidate fell out, stands in parity.json of the one that is kept.
"""

import statistics
import tempfile
import time
from pathlib import Path

import msgspec

from exporter.errors import ExportError
from exporter.library_texts import candidate_groups
from exporter.pipeline import Wish, export
from exporter.progress import stage, tell
from exporter.report import Candidate, read_report, write_report
from exporter.workspace import refuse_foreign, workspace
from runtime.embedder import Embedder
from runtime.errors import ServingError
from runtime.manifest import (
    MANIFEST_FILE,
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
CANDIDATES = ("cpu-fp32", "cpu-bf16", "cpu-int8", "cpu-int8-openvino")
_MEASURE_S = 15.0
_FEWEST_ROUNDS = 3


class NothingFits(ExportError):
    """No CPU target could be proven on this machine."""


def export_fastest(source: str, out: Path, wish: Wish) -> Manifest:
    """Export `source` into `out` for the fastest of CANDIDATES that is proven here.

    `wish.target` and `wish.engine` are not looked at. Raises as `export` does, and NothingFits.
    """
    refuse_foreign(out)
    tried: list[Candidate] = []
    out.resolve().parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{out.name}.auto-", dir=out.resolve().parent) as made:
        for target in CANDIDATES:
            tell(f"candidate {target}")
            tried.append(_try(source, Path(made) / target, wish, target))
        fastest = max(tried, key=lambda one: one.tokens_per_s or 0.0)
        if fastest.tokens_per_s is None:
            reasons = "; ".join(f"{one.target}: {one.refused}" for one in tried)
            raise NothingFits(f"found no target that can be proven on this machine: {reasons}")
        tell(f"keep {fastest.target}: {fastest.tokens_per_s:.0f} tokens a second")
        return _keep(Path(made) / fastest.target, out, tried)


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
    for group in candidate_groups():
        if isinstance(model, Ranker):
            model.rank(group.query, group.passages, truncate="END")
        elif isinstance(model, Embedder):
            model.embed(group.passages, input_type="passage", truncate="END")


def _keep(chosen: Path, out: Path, tried: list[Candidate]) -> Manifest:
    """Put `chosen` at `out` with the comparison in its parity.json."""
    with workspace(out) as directory:
        for path in sorted(chosen.rglob("*")):
            place = directory / path.relative_to(chosen)
            if path.is_dir():
                place.mkdir()
            else:
                path.rename(place)
        report = read_report(directory)
        report.candidates = tried
        write_report(directory, report)
        manifest = read_manifest(directory)
        files = {**manifest.files, PARITY_FILE: hash_file(directory / PARITY_FILE)}
        manifest = msgspec.structs.replace(manifest, files=files)
        (directory / MANIFEST_FILE).unlink()
        write_manifest(directory, manifest)
    return manifest
