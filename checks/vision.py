"""`make check-vl`: the exact shape of the vision reranker with random weights, exported, proven and
opened once, in fp32 and in int8.

Prints a table of seconds, peak memory and parity. One tile of a page is about 1 TFLOP in the tower;
rows are kept so short that pages of three tiles are the largest.
"""

import argparse
import resource
import shutil
import subprocess
import sys
import time
from copy import deepcopy
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import msgspec
import tokenizers
from tokenizers import AddedToken

from checks import exporting
from checks.figures import lines
from checks.here import need_disk, need_memory
from checks.random_weights import SHAPE
from exporter.report import Parity, read_report
from runtime.opening import open_model
from runtime.ranker import Ranker
from runtime.requests import Passage, RankRequest
from runtime.telemetry import disable_telemetry
from tests.tiny_vision import AFTER, BEFORE, CONTEXT, RERANKER, png, weights

WORK = Path("build/check-vl")
TOKENIZER = Path("embedded/rank")
MAX_TOKENS = 896
MEMORY_BYTES, DISK_BYTES = 14e9, 30e9
_VOCABULARY = 128267
_VISION = {
    "hidden_size": 1152,
    "intermediate_size": 4304,
    "num_hidden_layers": 27,
    "num_attention_heads": 16,
    "image_size": 512,
}


@dataclass(frozen=True)
class Opened:
    """A model that was opened once: seconds until it was warm, of one image of one tile, of the
    same image again and of a text; the process's peak memory in bytes."""

    ready_s: float
    image_s: float
    again_s: float
    text_s: float
    peak_bytes: int


@dataclass(frozen=True)
class Run:
    """One artifact: how it was made, and how it was opened."""

    export_s: float
    export_peak_bytes: int
    parity: Parity
    opened: Opened


def shape() -> dict[str, Any]:
    """config.json of the real model, as far as a tokenizer of other ids allows."""
    config = deepcopy(RERANKER)
    llm = {key: value for key, value in SHAPE.items() if key not in ("num_labels", "torch_dtype")}
    config["llm_config"] = llm | {
        "architectures": ["LlamaBidirectionalModel"],
        "vocab_size": _VOCABULARY,
    }
    config["vision_config"] |= _VISION
    changes = {"force_image_size": 512, "vocab_size": _VOCABULARY, "temperature": 1.0}
    del config["img_context_token_id"]
    return config | changes


def write_checkpoint(directory: Path, config: dict[str, Any], tokenizer: Path) -> None:
    """A seeded bfloat16 checkpoint with the tokenizer of the folder `tokenizer` and the tokens of
    images added to it."""
    exporting.write_checkpoint(directory, config, weights(config, head=False), tokenizer)
    words = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    words.add_special_tokens([AddedToken(t, normalized=False) for t in (BEFORE, CONTEXT, AFTER)])
    words.save(str(directory / "tokenizer.json"))


def measure(config: dict[str, Any], tokenizer: Path, work: Path, max_tokens: int) -> dict[str, Run]:
    """Write the checkpoint into `work`, export it in fp32, make int8 of that, open both."""
    shutil.rmtree(work, ignore_errors=True)
    checkpoint = work / "checkpoint"
    write_checkpoint(checkpoint, config, tokenizer)
    fine, coarse = work / "fp32", work / "int8"
    export = ["export", str(checkpoint), "--out", str(fine), "--max-tokens", str(max_tokens)]
    quantize = ["quantize", str(fine), "--out", str(coarse), "--target", "cpu-int8"]
    return {
        "fp32": _run(export, fine),
        "int8": _run([*quantize, "--checkpoint", str(checkpoint)], coarse),
    }


def _run(arguments: list[str], artifact: Path) -> Run:
    began = time.monotonic()
    peak = exporting.peak_of_export(*arguments)
    exported = time.monotonic()
    asked = [sys.executable, "-m", "checks.vision", "--open", str(artifact)]
    told = subprocess.run(asked, stdout=subprocess.PIPE, check=True).stdout
    opened = msgspec.json.decode(told, type=Opened)
    return Run(exported - began, peak, read_report(artifact), opened)


def open_once(artifact: Path) -> Opened:
    """Open the model, warm it up, and rank an image, the same again and a text."""
    began = time.monotonic()
    model = open_model(artifact)
    assert isinstance(model, Ranker)
    assert model.tower is not None
    model.warm_up()
    marks = [time.monotonic()]
    side = model.tower.vision.rule.size * 4 // 5
    page = Passage("A page of the invoice.", png(side, side))
    for passages in ([page], [page], ["A text of some words."]):
        model.rank(RankRequest("How many crates were shipped?", passages))
        marks.append(time.monotonic())
    model.close()
    image_s, again_s, text_s = (after - before for before, after in pairwise(marks))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return Opened(marks[0] - began, image_s, again_s, text_s, peak)


def table(runs: dict[str, Run]) -> str:
    """The figures as lines of text, one a row."""
    found = []
    for name, run in runs.items():
        rungs = run.parity.rungs
        outputs, embeds = rungs["image logits"], rungs["image embeddings"]
        rows = {
            "export with parity": f"{run.export_s:.0f} s, {run.export_peak_bytes / 1e9:.2f} GB",
            "open and warm up": f"{run.opened.ready_s:.0f} s, {run.opened.peak_bytes / 1e9:.2f} GB",
            "an image of one tile": f"{run.opened.image_s:.2f} s, again {run.opened.again_s:.2f} s",
            "a text": f"{run.opened.text_s:.2f} s",
            "max |Δ| of image embeddings": f"{embeds.max_abs_delta:.2g} over {embeds.pairs} images "
            f"(reference std {embeds.reference_std:.2f})",
            "max |Δ logit| with images": f"{outputs.max_abs_delta:.2g} over {outputs.pairs} pairs "
            f"(reference std {outputs.reference_std:.2f})",
        }
        found += [f"{name}: {line}" for line in lines(rows).splitlines()]
    return "\n".join(found)


def main(arguments: list[str] | None = None) -> int:
    """Measure the real shape; with --open, one artifact in this process."""
    disable_telemetry()
    parser = argparse.ArgumentParser(prog="check-vl", description=__doc__)
    parser.add_argument("--open", type=Path, metavar="ARTIFACT")
    artifact = parser.parse_args(arguments).open
    if artifact is not None:
        sys.stdout.buffer.write(msgspec.json.encode(open_once(artifact)))
        return 0
    need_memory(MEMORY_BYTES)
    need_disk(WORK, DISK_BYTES)
    print(table(measure(shape(), TOKENIZER, WORK, MAX_TOKENS)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
