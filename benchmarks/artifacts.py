"""Ours and the graphs of raw engines: exported from the checkpoint in child processes."""

import shutil
import sys
import time
from collections.abc import Iterable
from pathlib import Path

from benchmarks.environments import ROOT, PeerMissing, interpreter, run_logged
from benchmarks.models import BenchModel
from benchmarks.progress import print_line, stage
from runtime.engines import MODEL_FILE
from runtime.profile import target_profile_names

# What peers compute: our float32 graph without what it saves in the last layer, and that one in
# ONNX Runtime's own int8.
PLAIN_FP32 = "plain-fp32"
PLAIN_INT8 = "plain-int8"
_FULL = "cpu-fp32"
_MADE_FROM = {PLAIN_FP32: _FULL, PLAIN_INT8: PLAIN_FP32}


def with_sources(names: Iterable[str]) -> list[str]:
    """`names` of graphs and of those that they are made from, sources first."""
    found: dict[str, None] = {}

    def add(name: str) -> None:
        if source := _MADE_FROM.get(name):
            add(source)
        found[name] = None

    for name in sorted(names, key=lambda name: (name != _FULL, name)):
        add(name)
    return list(found)


def prepare_graphs(
    model: BenchModel, names: Iterable[str], deadline: float
) -> dict[str, Path | str]:
    """For each name (a target, PLAIN_FP32 or PLAIN_INT8), sources first, its folder, or the reason
    why there is none. Nothing is begun after `deadline`, in seconds of time.monotonic()."""
    found: dict[str, Path | str] = {}
    for name in names:
        folder = model.folder / f"artifact-{name}"
        try:
            if time.monotonic() > deadline:
                raise PeerMissing(f"no graph {name}: the time limit was reached")
            if name in _MADE_FROM:
                _make_plain(model, folder, name)
            else:
                _export(model, folder, name)
            found[name] = folder
        except PeerMissing as missing:
            print_line(f"{model.name}: {missing}")
            found[name] = str(missing)
    return found


def _export(model: BenchModel, folder: Path, target: str) -> None:
    if target not in target_profile_names():
        raise PeerMissing(f"target profile {target} does not exist")
    manifest = folder / "manifest.json"
    if manifest.is_file() and manifest.stat().st_mtime > _newest_source(model):
        return
    shutil.rmtree(folder, ignore_errors=True)
    command = [str(Path(sys.executable).with_name("rerank-export")), "export"]
    command += [str(model.checkpoint), "--out", str(folder), "--target", target]
    command += ["--profile", model.profile, "--max-tokens", str(model.max_tokens)]
    _run(command, f"export {model.name} for {target}", folder.with_suffix(".log"))


def _make_plain(model: BenchModel, folder: Path, name: str) -> None:
    source = model.folder / f"artifact-{_MADE_FROM[name]}"
    made, wanted = folder / MODEL_FILE, source / MODEL_FILE
    if not wanted.is_file():
        raise PeerMissing(f"no graph {_MADE_FROM[name]} to make {name} from")
    if made.is_file() and made.stat().st_mtime > wanted.stat().st_mtime:
        return
    shutil.rmtree(folder, ignore_errors=True)
    if name == PLAIN_INT8:
        command = [str(interpreter("onnxruntime")), "-m", "benchmarks.candidates.plain_int8"]
    else:
        command = [sys.executable, "-m", "benchmarks.plain_graph"]
        command += [str(model.checkpoint), model.profile]
    command += [str(source), str(folder)]
    _run(command, f"make {name} of {model.name}", folder.with_suffix(".log"))


def _run(command: list[str], what: str, log: Path) -> None:
    with stage(what):
        status = run_logged(command, log)
    if status != 0:
        lines = log.read_text(errors="replace").split("\n")
        last = next((line for line in reversed(lines) if line.strip()), "")
        raise PeerMissing(f"{what} failed: {last.strip()[:300]}")


def _newest_source(model: BenchModel) -> float:
    """The last change of the checkpoint, or of code or data that decide an artifact."""
    files = [f for room in ("exporter", "profiles") for f in (ROOT / room).rglob("*")]
    files.append(model.checkpoint / "config.json")
    return max(f.stat().st_mtime for f in files if f.is_file() and f.suffix != ".pyc")
