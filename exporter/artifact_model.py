"""A proven artifact in the place of the checkpoint that it was made of."""

from collections.abc import Sequence
from pathlib import Path

import torch

from runtime.engines import Engine, open_engine
from runtime.manifest import Manifest
from runtime.profile import load_target_profile


class ArtifactModel:
    """Answers rows as the architectures do, from the artifact's own engine."""

    def __init__(self, directory: Path, manifest: Manifest) -> None:
        """Open the engine of `directory`; raises EngineError."""
        self.inputs: Sequence[str] = manifest.inputs
        self._output = manifest.outputs[0]
        self._engine: Engine = open_engine(load_target_profile(manifest.target).engine, directory)

    def __call__(self, *tensors: torch.Tensor) -> torch.Tensor:
        """Logits float32 [rows, 1] or vectors [rows, d] for int64 [rows, tokens] an input."""
        arrays = [tensor.numpy() for tensor in tensors]
        found = self._engine.run(dict(zip(self.inputs, arrays, strict=True)))
        return torch.from_numpy(found[self._output])

    def close(self) -> None:
        """Give the engine's memory back."""
        self._engine.close()
