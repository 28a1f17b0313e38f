"""One engine call of encoded rows: their arrays in, their outputs checked."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import NamedTuple

from runtime.artifact import OpenArtifact
from runtime.batch import INPUT_NAMES, assemble
from runtime.engines import Arrays, Outputs
from runtime.postprocess import Floats
from runtime.text import Encoding
from runtime.vision.layout import image_inputs


class Prepared(NamedTuple):
    """The engine's inputs for so many `rows`; they may hold more."""

    inputs: Arrays
    rows: int


class Forward(ABC):
    """The functions that a model's scheduler calls: n encodings to float32 [n] or [n, d].

    It knows the opened artifact and nothing of the model, so that it is whole before the scheduler
    starts its threads.
    """

    def __init__(self, opened: OpenArtifact) -> None:
        self._manifest = opened.manifest
        self._engine = opened.engine
        names = opened.engine.input_names
        self._input_names = [name for name in names if name in INPUT_NAMES]
        # While a warm-up checks padding: a longer row that joins calls of one row.
        self.padding_row: Encoding | None = None

    def __call__(self, rows: Sequence[Encoding]) -> Floats:
        """Prepare and compute these rows."""
        return self.compute(self.prepare(rows))

    def prepare(self, rows: Sequence[Encoding]) -> Prepared:
        """Lay out a call; it needs no engine, which may compute another one."""
        return Prepared(self._lay_out(rows), len(rows))

    def compute(self, call: Prepared) -> Floats:
        """Float32 [n] or [n, d] of a call's n rows. Raises EngineError for outputs of a wrong
        shape, and what the engine raises."""
        computed = len(next(iter(call.inputs.values())))
        return self._checked(self._engine.run(call.inputs), call.rows, computed)

    @abstractmethod
    def _checked(self, outputs: Outputs, rows: int, computed: int) -> Floats:
        """The output of the first `rows` of the `computed` rows. Raises EngineError."""

    def _lay_out(self, rows: Sequence[Encoding]) -> Arrays:
        """The engine's inputs for these encodings, padded to the shape that it computes, which may
        have more rows."""
        padding_row = self.padding_row  # read once: another thread may reset it
        if padding_row is not None and len(rows) == 1:
            rows = [*rows, padding_row]
        pad, side = self._manifest.special_tokens.pad, self._manifest.padding_side
        shape = self._engine.shape_for(len(rows), max(map(len, rows)))
        inputs = assemble(rows, self._input_names, pad, side, shape)
        if self._manifest.vision is not None:
            inputs |= image_inputs(rows, side, shape, self._manifest.vision)
        return inputs
