"""A reranker with seeded random weights: in PyTorch, and as exported graphs."""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from checks.random_weights import QWEN3_SHAPE, SHAPE, random_model
from exporter import onnxruntime_cuda
from exporter.architectures.base import Architecture
from exporter.onnx_file import move_to_onnx
from runtime.engines import MODEL_FILE

Weights = Literal["float32", "float16", "bfloat16"]
Operators = Literal["onnx", "onnxruntime-cuda", "lean"]
Row = list[int]

_TINY = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 512,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "tiny": SHAPE | _TINY,
    "1b": SHAPE,
    "qwen3-tiny": QWEN3_SHAPE | _TINY,
    "qwen3-0.6b": QWEN3_SHAPE,
}
PRECISIONS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
_SEED = 0


@dataclass(frozen=True)
class Exported:
    """A graph on disk; `precision` as in a target profile."""

    directory: Path
    precision: str


def make_model(name: str) -> Architecture:
    """The model `name` of CONFIGS in float32 on the CPU; the same weights each time."""
    model, weights = random_model(CONFIGS[name])
    model.load_state_dict({key: weight.float() for key, weight in weights.items()}, assign=True)
    return model.eval()


def export(name: str, weights: Weights, directory: Path) -> Exported:
    """Write model.onnx of the model `name` into `directory`, in ONNX's own operators."""
    directory.mkdir(parents=True, exist_ok=True)
    model = make_model(name)
    if weights != "float32":
        model.halve(getattr(torch, weights))
    move_to_onnx(model, directory)
    return Exported(directory, PRECISIONS[weights])


def adapted(exported: Exported, *, lean: bool = False, packed: bool = False) -> Exported:
    """The graph with the operators for which ONNX Runtime's CUDA provider has fast kernels, in the
    forms of the targets that are off by default."""
    forms = "".join(f"-{name}" for name, on in (("lean", lean), ("packed", packed)) if on)
    directory = exported.directory.with_name(f"{exported.directory.name}-cuda{forms}")
    shutil.copytree(exported.directory, directory, copy_function=os.link)
    # Only this file is rewritten; the weights are shared with the original.
    (directory / MODEL_FILE).unlink()
    shutil.copyfile(exported.directory / MODEL_FILE, directory / MODEL_FILE)
    onnxruntime_cuda.adapt(directory, lean=lean, packed=packed)
    return Exported(directory, exported.precision)


def reference(model: Architecture, rows: list[Row], device: str) -> np.ndarray:
    """Logits float64 [n] in the model's own precision, one unpadded row a call."""
    body: Any = model.body
    # Neither parameter nor buffer, so casts do not round it, and `to` does not move it.
    body.frequencies = body.frequencies.to(device)
    model.to(device)
    found = []
    with torch.inference_mode():
        for row in rows:
            ids = torch.tensor([row], device=device)
            found.append(float(model(ids, torch.ones_like(ids))[0, 0]))
    return np.asarray(found)


def make_rows(lengths: list[int], vocabulary: int) -> list[Row]:
    """Seeded random token ids, a row for each length."""
    drawn = np.random.default_rng(_SEED)
    return [drawn.integers(0, vocabulary, length).tolist() for length in lengths]


def padded_inputs(rows: list[Row], side: str = "right") -> dict[str, np.ndarray]:
    """`input_ids` and `attention_mask` int64 [rows, longest], padded on `side`."""
    longest = max(map(len, rows))
    ids = np.zeros((len(rows), longest), np.int64)
    mask = np.zeros_like(ids)
    for index, row in enumerate(rows):
        start = longest - len(row) if side == "left" else 0
        ids[index, start : start + len(row)] = row
        mask[index, start : start + len(row)] = 1
    return {"input_ids": ids, "attention_mask": mask}
