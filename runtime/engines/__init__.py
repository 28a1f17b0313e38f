"""Engines: backends that compute named arrays from named arrays, behind one protocol and one table.

A new engine is a module with an `open_engine` function and a row in `ENGINES`. Its module is
imported only when the engine is opened: importing this package needs no engine's library.
"""

import importlib
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from runtime.engines.gpu_use import GPU_USE
from runtime.errors import EngineUnavailable
from runtime.gpu import find_gpu
from runtime.shapes import Shape, ShapeRange

Arrays = Mapping[str, npt.NDArray[np.generic]]
Outputs = dict[str, npt.NDArray[np.generic]]


@dataclass(frozen=True)
class EngineSetup:
    """Options for opening an engine. ONNX Runtime on the CPU needs none of them.

    `inputs` are a text graph's, all int64 [rows, tokens] but for embeddings of images; `precision`
    is the graph's. `max_rows` and `max_tokens` bound a call; `padding_waste` is the largest share
    of padding in a batch. `shapes` are the shapes to compile for, in engines that compile. Calls of
    up to `graph_tokens` computed tokens replay captured CUDA graphs (0: none). `cache` is the
    folder that keeps compiled engines between starts, `memory_bytes` the most GPU memory for calls
    (None: no limit). `host_code` allows a plan that contains code for the CPU.
    """

    inputs: tuple[str, ...] = ("input_ids", "attention_mask")
    precision: str = "fp32"
    max_rows: int = 64
    max_tokens: int = 8192
    padding_waste: float = 0.0
    shapes: tuple[ShapeRange, ...] = ()
    graph_tokens: int = 0
    cache: Path | None = None
    memory_bytes: int | None = None
    host_code: bool = False


class Engine(Protocol):
    """The interface of an engine.

    `version` is the version of its library, `device` "cpu", "cuda:N" or "remote". `lanes` is the
    number of concurrent calls of `run`. `input_names` and `output_names` are the graph's. `shapes`
    are the ranges of shapes that it accepts; empty means every shape. A tile is a row of one token.
    """

    name: str
    version: str
    device: str
    lanes: int
    input_names: list[str]
    output_names: list[str]
    shapes: tuple[ShapeRange, ...]

    def shape_for(self, rows: int, tokens: int) -> Shape:
        """The shape that a call of this shape must be padded to; at least this shape."""

    def run(self, inputs: Arrays) -> Outputs:
        """Compute all outputs. At most `lanes` threads call it at the same time.

        Raises OutOfMemory, DeviceLost or EngineError.
        """

    def close(self) -> None:
        """Free memory and devices; `run` is not called afterwards. May be called again."""


@runtime_checkable
class BoundedEngine(Protocol):
    """An engine with a limit of its own: at most `max_rows` rows in a call."""

    max_rows: int


class AnyShape:
    """The shape interface of an engine that accepts every shape."""

    shapes: tuple[ShapeRange, ...] = ()

    def shape_for(self, rows: int, tokens: int) -> Shape:
        """The shape itself."""
        return rows, tokens


MODEL_FILE, PLAN_FILE = "model.onnx", "model.plan"
# The tower of a model that takes images: from tiles to image embeddings.
VISION_FILE, VISION_PLAN_FILE = "vision.onnx", "vision.plan"
_TOWERS = {MODEL_FILE: VISION_FILE, PLAN_FILE: VISION_PLAN_FILE}

# Name → (module, the artifact's file that it needs or None).
ENGINES: dict[str, tuple[str, str | None]] = {
    "tensorrt": ("runtime.engines.tensorrt", PLAN_FILE),
    "onnxruntime-tensorrt": ("runtime.engines.ort", MODEL_FILE),
    "onnxruntime-cuda": ("runtime.engines.ort", MODEL_FILE),
    "onnxruntime-cpu": ("runtime.engines.ort", MODEL_FILE),
    "openvino-fp32": ("runtime.engines.openvino", MODEL_FILE),
    "openvino-bf16": ("runtime.engines.openvino", MODEL_FILE),
    "mock": ("runtime.engines.mock", None),
    "triton": ("runtime.engines.triton", None),
}
# Those that need an NVIDIA GPU.
GPU_ENGINES = ("tensorrt", "onnxruntime-tensorrt", "onnxruntime-cuda")


def open_engine(
    wanted: str, directory: Path, setup: EngineSetup | None = None, *, tower: bool = False
) -> Engine:
    """Open the engine called `wanted` on the artifact in `directory`, on its graph or plan of texts
    or of the `tower`.

    A remote engine is named with its address: "triton=http://127.0.0.1:8003". Raises
    EngineUnavailable when the engine, its library or its hardware is missing. There is no fallback
    to another engine.
    """
    name, remote, address = wanted.partition("=")
    if name not in ENGINES:
        raise EngineUnavailable(f"found engine {name!r}, wanted one of: {', '.join(ENGINES)}")
    if name in GPU_ENGINES and find_gpu() is None:
        raise EngineUnavailable(
            f"engine {name} needs an NVIDIA GPU and none is visible: no driver (libcuda.so.1) or "
            "no device; in a container: docker run --gpus all; without a GPU choose the target "
            "cpu-fp32"
        )
    module, file = ENGINES[name]
    if tower and file is not None:
        file = _TOWERS[file]
    if file is not None and not (directory / file).is_file():
        raise EngineUnavailable(f"engine {name} needs {file}, which is not in the artifact")
    place = address if remote else directory / (file or ".")
    opener = importlib.import_module(module).open_engine
    with GPU_USE.shared() if name in GPU_ENGINES else nullcontext():
        engine: Engine = opener(name, place, setup or EngineSetup())
    return engine
