"""`make check-ray RANK EMBED`: mining and scoring on two Ray workers give what one process gives.

    python -m checks.ray_workers RANK_ARTIFACT EMBED_ARTIFACT

A local cluster of two workers, real artifacts, real texts (Python's own documentation). A second
cluster, which was told that it has two GPUs, gives each of its workers one, and three of them a
half.
"""

import json
import os
import secrets
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

from checks.ports import free_ports
from exporter.library_texts import paragraphs
from recipe import prep, sdg
from recipe.cli import main as rerank
from recipe.config import STAGE_NAMES
from recipe.config_files import load
from recipe.ray_workers import map_in_order
from recipe.stage import perform
from runtime.telemetry import disable_telemetry

_FILES = ("train_mined.automodel.json", "train_mined.automodel_unrolled.json")
_LINES, _PASSAGES = 600, 4
# Rows meet in other batches, and float32 sums differ with them: 1.2e-6 were seen.
_DRIFT = 1e-5


def main() -> None:
    """Exit with a message when a file or a GPU differs."""
    disable_telemetry()
    rank, embed = map(Path, sys.argv[1:3])
    # Its ports are open to the network.
    os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
    _gpus()
    with tempfile.TemporaryDirectory(prefix="check-ray-") as folder:
        _mining(Path(folder), embed)
        _scoring(Path(folder), rank)


def _mining(folder: Path, embed: Path) -> None:
    recipe = load("small", STAGE_NAMES, [f"sdg.output_dir={folder}/sdg"])
    perform(sdg.STAGE, recipe.sdg, force=False, log=_quiet)
    for workers in (1, 2):
        settings = msgspec.structs.replace(
            recipe.prep,
            sdg_input_path=recipe.sdg.output_dir,
            output_dir=f"{folder}/prep-{workers}",
            embedder_dir=f"{folder}/embedders-{workers}",  # no vectors of the other one
            base_model=str(embed),
            workers=workers,
        )
        began = time.monotonic()
        perform(prep.STAGE, settings, force=False, log=_quiet)
        print(f"mining with {workers}: {time.monotonic() - began:.1f} s")
    for name in _FILES:
        one, two = (json.loads((folder / f"prep-{n}" / name).read_bytes()) for n in (1, 2))
        _require(_same(one, two), name)
    print(f"{len(one['data'])} examples: same negatives, same scores")


def _scoring(folder: Path, rank: Path) -> None:
    texts = paragraphs()
    source = folder / "in.jsonl"
    with source.open("w") as file:
        for number in range(_LINES):
            passages = [texts[(number * 7 + i) % len(texts)] for i in range(_PASSAGES)]
            query = texts[number % len(texts)][:60]
            file.write(json.dumps({"id": number, "query": query, "passages": passages}) + "\n")
    for workers in (1, 2):
        began = time.monotonic()
        out = folder / f"out-{workers}.jsonl"
        asked = ["score", str(source), str(out), "--rank", str(rank), "--workers", str(workers)]
        _require(rerank(asked) == 0, "exit status")
        print(f"scoring with {workers}: {time.monotonic() - began:.1f} s")
    one, two = (
        [json.loads(line) for line in (folder / f"out-{n}.jsonl").read_bytes().splitlines()]
        for n in (1, 2)
    )
    _require(len(one) == _LINES and _same(one, two), "scores")
    print(f"{_LINES} lines: same scores")


class _Visible:
    """The GPUs that Ray shows to this worker."""

    def __call__(self, _: int) -> str:
        return os.environ.get("CUDA_VISIBLE_DEVICES", "")


def _gpus() -> None:
    with _cluster("--num-gpus=2") as address:
        for workers, wanted in ((2, [1, 1]), (3, [1, 2])):
            seen = Counter(map_in_order(_Visible, (), range(workers), workers, address))
            _require(
                sorted(seen.values()) == wanted and set(seen) == {"0", "1"},
                f"GPUs: {workers} workers see {dict(seen)},",
            )
    with _cluster("--num-gpus=0") as address:
        seen = Counter(map_in_order(_Visible, (), range(2), 2, address))
        _require(set(seen) == {os.environ.get("CUDA_VISIBLE_DEVICES", "")}, f"GPUs: {dict(seen)},")
    print("two GPUs: one for each of two workers, a half for some of three")


@contextmanager
def _cluster(*options: str) -> Iterator[str]:
    """The address of a Ray on this machine that has three cores, whatever there are."""
    (port,) = free_ports(1)
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--head", "--block"]
    command += [f"--port={port}", "--num-cpus=3", "--include-dashboard=false", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            _require(any("Ray runtime started" in line for line in process.stdout or ()), "start")
            yield f"127.0.0.1:{port}"
        finally:
            process.terminate()


def _same(one: Any, two: Any) -> bool:
    """Whether two documents are equal but for _DRIFT in their numbers with a fraction."""
    if isinstance(one, float) and isinstance(two, float):
        return abs(one - two) <= _DRIFT
    if isinstance(one, dict) and isinstance(two, dict):
        return list(one) == list(two) and all(_same(one[key], two[key]) for key in one)
    if isinstance(one, list) and isinstance(two, list):
        return len(one) == len(two) and all(map(_same, one, two))
    return bool(one == two)


def _require(same: bool, what: str) -> None:
    if not same:
        sys.exit(f"two Ray workers give other {what} than one process")


def _quiet(_: str) -> None:
    pass


if __name__ == "__main__":
    main()
