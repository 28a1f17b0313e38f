"""`make check-1b`: export, prove and serve a random checkpoint of the exact 1B shape, once.

It is also exported in half precision for the GPU, and that graph is proven on the CPU.

Prints a table of seconds, peak memory and parity. Random weights say nothing about quality; they
show that the shape exports within its memory, gives PyTorch's scores, and is served.
"""

import shutil
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from checks.exporting import peak_of_export, write_checkpoint
from checks.figures import lines
from checks.here import need_disk, need_memory
from checks.random_weights import SHAPE, random_model
from checks.serving import served
from exporter.report import read_report
from runtime.telemetry import disable_telemetry

WORK = Path("build/check-1b")
TOKENIZER = Path("embedded/rank")
MAX_TOKENS = 512
MEMORY_BOUND = 1.6
_GIGABYTE = 1e9
# The export's peak and the server; the checkpoint, two artifacts and temporary files.
MEMORY_BYTES, DISK_BYTES = 9e9, 20e9


def measure(shape: dict[str, Any], tokenizer: Path, work: Path) -> tuple[dict[str, str], float]:
    """Write a checkpoint of `shape` into `work`, export it in a child process, serve it once, and
    export it in half precision.

    Returns the figures as text, and the first export's peak memory over the size of the float32
    weights.
    """
    shutil.rmtree(work, ignore_errors=True)
    checkpoint, artifact, half = work / "checkpoint", work / "artifact", work / "half"
    marks = [time.monotonic()]

    def seconds() -> float:
        """Since the last mark."""
        marks.append(time.monotonic())
        return marks[-1] - marks[-2]

    weights_gb = 4 * write_random(checkpoint, shape, tokenizer) / _GIGABYTE
    rows = {"write the checkpoint": f"{seconds():.1f} s"}
    bound = ("--max-tokens", str(MAX_TOKENS))
    command = ("export", str(checkpoint), "--out")
    peak_gb = peak_of_export(*command, str(artifact), *bound) / _GIGABYTE
    rows["export with parity"] = f"{seconds():.1f} s"
    with served(rank=artifact) as address:
        rows["server start to ready"] = f"{seconds():.1f} s"
        logits = _ask(address)
        rows["one request, 3 passages"] = f"{seconds():.2f} s"
    on_cpu = (*bound, "--target", "cuda-fp16", "--engine", "onnxruntime-cpu")
    half_gb = peak_of_export(*command, str(half), *on_cpu) / _GIGABYTE
    half_s, ratio = seconds(), peak_gb / weights_gb
    whole, halved = read_report(artifact).rungs, read_report(half).rungs
    logit, order = whole["logits"], whole["ranking"]
    return rows | {
        "float32 weights": f"{weights_gb:.2f} GB",
        "peak memory of the export": f"{peak_gb:.2f} GB "
        f"({ratio:.2f} × weights, bound {MEMORY_BOUND})",
        "max |Δ logit|": f"{logit.max_abs_delta:.2g} over {logit.pairs} pairs "
        f"(reference std {logit.reference_std:.2f})",
        "Kendall's tau": f"{order.kendall_tau} over {order.pairs} pairs",
        "served logits": ", ".join(f"{one:.4f}" for one in logits),
        "export in float16": f"{half_s:.1f} s, peak memory {half_gb:.2f} GB",
        "max |Δ logit| in float16": f"{halved['logits'].max_abs_delta:.2g}, "
        f"rms {halved['logits'].rms_delta:.2g} over {halved['logits'].pairs} pairs, "
        f"tau {halved['ranking'].kendall_tau}",
    }, ratio


def write_random(directory: Path, shape: dict[str, Any], tokenizer: Path) -> int:
    """A seeded bfloat16 checkpoint of `shape` with the tokenizer of `tokenizer`.

    Returns its number of parameters.
    """
    _, weights = random_model(shape)
    write_checkpoint(directory, shape, weights, tokenizer)
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


def main() -> int:
    """Measure the 1B shape; 1 when the export needed more memory than its bound."""
    disable_telemetry()
    need_memory(MEMORY_BYTES)
    need_disk(WORK, DISK_BYTES)
    rows, ratio = measure(SHAPE, TOKENIZER, WORK)
    print(lines(rows))
    return 0 if ratio <= MEMORY_BOUND else 1


if __name__ == "__main__":
    sys.exit(main())
