"""Engines: things that turn named arrays into named arrays, behind one protocol and one table.

A new engine is a module with an `open_engine` function and one row in `ENGINES`. Modules are
imported only when their engine is opened: importing this package needs no engine's library.
"""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from runtime.errors import EngineUnavailable

Arrays = Mapping[str, npt.NDArray[np.generic]]


class Engine(Protocol):
    """What the rest of the runtime knows of an engine.

    `version` is that of its library, `device` "cpu", "cuda:N" or "remote". `lanes` is how many
    calls of `run` may be under way at the same time. `input_names` and `output_names` are the
    graph's.
    """

    name: str
    version: str
    device: str
    lanes: int
    input_names: list[str]
    output_names: list[str]

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[np.generic]]:
        """Compute all outputs. Called from up to `lanes` threads at a time. Raises EngineError."""

    def close(self) -> None:
        """Give back memory and devices; `run` is not called afterwards."""


@runtime_checkable
class BoundedEngine(Protocol):
    """An engine that takes at most `max_rows` rows in a call, whatever the target says."""

    max_rows: int


# name → (module, the file of the artifact that it needs or None)
ENGINES: dict[str, tuple[str, str | None]] = {
    "onnxruntime-cpu": ("runtime.engines.ort", "model.onnx"),
    "onnxruntime-cuda": ("runtime.engines.ort", "model.onnx"),
    "openvino-fp32": ("runtime.engines.openvino", "model.onnx"),
    "openvino-bf16": ("runtime.engines.openvino", "model.onnx"),
    "mock": ("runtime.engines.mock", None),
    "triton": ("runtime.engines.triton", None),
}


def open_engine(wanted: str, directory: Path) -> Engine:
    """Open the engine called `wanted` on the artifact in `directory`.

    One that runs elsewhere is named with its address: "triton=http://127.0.0.1:8003". Raises
    EngineUnavailable when the engine, its library or its hardware is not here: never
    falls back to another one.
    """
    name, remote, address = wanted.partition("=")
    if name not in ENGINES:
        raise EngineUnavailable(f"found engine {name!r}, wanted one of: {', '.join(ENGINES)}")
    module, file = ENGINES[name]
    if file is not None and not (directory / file).is_file():
        raise EngineUnavailable(f"engine {name} needs {file}, which is not in the artifact")
    place = address if remote else directory / (file or ".")
    engine: Engine = importlib.import_module(module).open_engine(name, place)
    return engine
