"""`make check-1b`: export, prove and serve a random checkpoint of the exact 1B shape, once.

It is also exported in half precision for the GPU, and that graph is proven on the CPU.

Prints a table of seconds, peak memory and parity. Random weights say nothing about quality; they
show that the shape exports within its memory, gives PyTorch's scores, and is served.
"""

import shutil
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec
from safetensors.torch import save_file

from checks.exporting import peak_of_export
from checks.figures import lines
from checks.here import need_disk, need_memory
from checks.random_weights import SHAPE, random_model
from checks.serving import served
from exporter.checkpoint import CONFIG_FILE
from exporter.report import Parity, read_report
from exporter.tokens import TOKENIZER_FILES
from exporter.weights import WEIGHTS_FILE
from runtime.telemetry import disable_telemetry

WORK = Path("build/check-1b")
TOKENIZER = Path("embedded/rank")
MAX_TOKENS = 512
MEMORY_BOUND = 1.6
# The export's peak and the server; the checkpoint, two artifacts and temporary files.
MEMORY_BYTES, DISK_BYTES = 9e9, 20e9


@dataclass(frozen=True)
class Figures:
    """What one run measured. Seconds; bytes; scores as the server gave them."""

    write_s: float
    export_s: float
    ready_s: float
    request_s: float
    weights_bytes: int
    peak_bytes: int
    logits: list[float]
    parity: Parity
    half_s: float
    half_peak_bytes: int
    half: Parity

    @property
    def memory_ratio(self) -> float:
        """The export's peak memory over the size of the float32 weights."""
        return self.peak_bytes / self.weights_bytes


def measure(shape: dict[str, Any], tokenizer: Path, work: Path) -> Figures:
    """Write a checkpoint of `shape` into `work`, export it in a child process, serve it once."""
    shutil.rmtree(work, ignore_errors=True)
    checkpoint, artifact, half = work / "checkpoint", work / "artifact", work / "half"
    began = time.monotonic()
    parameters = write_checkpoint(checkpoint, shape, tokenizer)
    wrote = time.monotonic()
    bound = ("--max-tokens", str(MAX_TOKENS))
    peak = peak_of_export("export", str(checkpoint), "--out", str(artifact), *bound)
    exported = time.monotonic()
    with served(rank=artifact) as address:
        ready = time.monotonic()
        logits = _ask(address)
        answered = time.monotonic()
    on_cpu = (*bound, "--target", "cuda-fp16", "--engine", "onnxruntime-cpu")
    half_peak = peak_of_export("export", str(checkpoint), "--out", str(half), *on_cpu)
    halved = time.monotonic()
    return Figures(
        write_s=wrote - began,
        export_s=exported - wrote,
        ready_s=ready - exported,
        request_s=answered - ready,
        weights_bytes=4 * parameters,
        peak_bytes=peak,
        logits=logits,
        parity=read_report(artifact),
        half_s=halved - answered,
        half_peak_bytes=half_peak,
        half=read_report(half),
    )


def write_checkpoint(directory: Path, shape: dict[str, Any], tokenizer: Path) -> int:
    """A seeded bfloat16 checkpoint of `shape` with the tokenizer of `tokenizer`.

    Returns its number of parameters.
    """
    directory.mkdir(parents=True)
    (directory / CONFIG_FILE).write_bytes(msgspec.json.format(msgspec.json.encode(shape), indent=2))
    for name in TOKENIZER_FILES:
        if (tokenizer / name).is_file():
            shutil.copyfile(tokenizer / name, directory / name)
    _, weights = random_model(shape)
    save_file(weights, directory / WEIGHTS_FILE)
    return sum(weight.numel() for weight in weights.values())


def _ask(address: str) -> list[float]:
    body = {
        "query": {"text": "What is machine learning?"},
        "passages": [
            {"text": "The weather is nice today"},
            {"text": "Machine learning is a subset of AI"},
            {"text": "Deep learning uses neural networks"},
        ],
    }
    reply = httpx.post(f"{address}/v1/ranking", json=body, timeout=120)
    reply.raise_for_status()
    return [row["logit"] for row in reply.json()["rankings"]]


def table(figures: Figures) -> str:
    """The figures as lines of text, one a row."""
    logits, ranking = figures.parity.rungs["logits"], figures.parity.rungs["ranking"]
    half = figures.half.rungs["logits"]
    gigabyte = 1e9
    rows = {
        "write the checkpoint": f"{figures.write_s:.1f} s",
        "export with parity": f"{figures.export_s:.1f} s",
        "server start to ready": f"{figures.ready_s:.1f} s",
        "one request, 3 passages": f"{figures.request_s:.2f} s",
        "float32 weights": f"{figures.weights_bytes / gigabyte:.2f} GB",
        "peak memory of the export": f"{figures.peak_bytes / gigabyte:.2f} GB "
        f"({figures.memory_ratio:.2f} × weights, bound {MEMORY_BOUND})",
        "max |Δ logit|": f"{logits.max_abs_delta:.2g} over {logits.pairs} pairs "
        f"(reference std {logits.reference_std:.2f})",
        "Kendall's tau": f"{ranking.kendall_tau} over {ranking.pairs} pairs",
        "served logits": ", ".join(f"{logit:.4f}" for logit in figures.logits),
        "export in float16": f"{figures.half_s:.1f} s, "
        f"peak memory {figures.half_peak_bytes / gigabyte:.2f} GB",
        "max |Δ logit| in float16": f"{half.max_abs_delta:.2g}, rms {half.rms_delta:.2g} over "
        f"{half.pairs} pairs, tau {figures.half.rungs['ranking'].kendall_tau}",
    }
    return lines(rows)


def main() -> int:
    """Measure the 1B shape; 1 when the export needed more memory than its bound."""
    disable_telemetry()
    need_memory(MEMORY_BYTES)
    need_disk(WORK, DISK_BYTES)
    figures = measure(SHAPE, TOKENIZER, WORK)
    print(table(figures))
    return 0 if figures.memory_ratio <= MEMORY_BOUND else 1


if __name__ == "__main__":
    sys.exit(main())
