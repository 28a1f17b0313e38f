"""ONNX Runtime: the CPU and CUDA providers, without silent fallback between them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.cores import usable_cores
from runtime.engines.lanes import Lanes, lanes_for
from runtime.errors import EngineError, EngineUnavailable

_CPU = "onnxruntime-cpu"
_PROVIDERS = {
    _CPU: "CPUExecutionProvider",
    "onnxruntime-cuda": "CUDAExecutionProvider",
}
_ERRORS_ONLY = 3
# Its node adds and normalises in one pass, but slower than the two that it replaces: 8 % of a
# MiniLM row (onnxruntime 1.31.1, AVX-512).
_SLOWER_FUSIONS = ["SkipLayerNormFusion"]


class OrtEngine:
    """One graph on one provider."""

    def __init__(self, name: str, version: str, session: Any, lanes: Lanes[Any]) -> None:
        self.name = name
        self.version = version
        self.lanes = lanes.count
        self.device = "cpu" if name == _CPU else "cuda:0"
        self.input_names = [i.name for i in session.get_inputs()]
        self.output_names = [o.name for o in session.get_outputs()]
        self._lanes: Lanes[Any] | None = lanes

    def run(
        self, inputs: Mapping[str, npt.NDArray[np.generic]]
    ) -> dict[str, npt.NDArray[np.generic]]:
        """All outputs of the graph, by name."""
        assert self._lanes is not None
        try:
            with self._lanes.take() as session:
                values = session.run(None, inputs)
        except Exception as error:  # ONNX Runtime raises its own unrelated classes
            raise EngineError(f"{self.name} failed: {error}") from error
        return dict(zip(self.output_names, values, strict=True))

    def close(self) -> None:
        """Drop the sessions; their memory goes back when the last reference is gone."""
        self._lanes = None


def open_engine(name: str, model_file: Path) -> OrtEngine:
    """Open `model_file` on the provider that `name` stands for, or raise EngineUnavailable."""
    try:
        import onnxruntime as ort
    except ImportError as error:
        raise EngineUnavailable(
            f"engine {name} needs the package onnxruntime; install the extra serve-cpu or serve-gpu"
        ) from error
    provider = _PROVIDERS[name]
    if provider not in ort.get_available_providers():
        raise EngineUnavailable(
            f"engine {name} needs {provider}, but this onnxruntime offers "
            f"{', '.join(ort.get_available_providers())}; install the matching extra"
        )
    count = lanes_for(model_file) if name == _CPU else 1
    try:
        session = _session(ort, model_file, provider, usable_cores())
        # A session may compute several calls at a time.
        narrow = [_session(ort, model_file, provider, 1)] * count if count > 1 else []
    except Exception as error:
        raise EngineError(f"{name} cannot open {model_file.name}: {error}") from error
    if session.get_providers()[0] != provider:
        # ONNX Runtime silently falls back to the CPU when CUDA's libraries are missing.
        raise EngineUnavailable(
            f"engine {name} could not start {provider} (CUDA libraries or a GPU are missing); "
            "choose another target or repair the installation"
        )
    return OrtEngine(name, ort.__version__, session, Lanes(session, narrow))


def _session(ort: Any, model_file: Path, provider: str, threads: int) -> Any:
    options = ort.SessionOptions()
    options.log_severity_level = _ERRORS_ONLY
    options.intra_op_num_threads = threads
    # The arena keeps the pages of large intermediate values between calls: without it the C
    # library maps and unmaps them each time, a third of a large call. What it keeps is bounded
    # because batches are (BatchLimits). Patterns would be planned anew for every shape.
    options.enable_mem_pattern = False
    return ort.InferenceSession(
        str(model_file),
        sess_options=options,
        providers=[provider],
        disabled_optimizers=_SLOWER_FUSIONS if provider == _PROVIDERS[_CPU] else None,
    )
