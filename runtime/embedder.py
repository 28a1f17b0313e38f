"""An embedder: turns texts into vectors."""

from collections.abc import Sequence

import numpy as np

from runtime.artifact import DIMENSIONS_INPUT, EMBEDDINGS_OUTPUT, OpenArtifact
from runtime.engines import Arrays, Outputs
from runtime.errors import ArtifactError, EngineError
from runtime.forward import Forward
from runtime.manifest import ImageGolden
from runtime.model import Computed, Known, Model
from runtime.postprocess import Embeddings, Floats, InputType, shorten, unit
from runtime.requests import EmbedRequest, Passage
from runtime.text import Encoding, TextEncoder

_MATRIX_AXES = 2


class Vectors(Forward):
    """One pooled vector a row, float32 [n, dimensions]. Without a manifest that says the dimensions
    one row is computed to see them, before the model has a scheduler."""

    def __init__(self, opened: OpenArtifact, encoder: TextEncoder) -> None:
        super().__init__(opened)
        names = self._manifest.outputs
        self._output = EMBEDDINGS_OUTPUT if EMBEDDINGS_OUTPUT in names else names[0]
        # Without a manifest nobody knows whether the graph normalises; doing it twice is harmless.
        # An exported graph is left alone, because parity must see its own output.
        self._normalizes = self._manifest.pooling == "unknown"
        self._takes_dimensions = DIMENSIONS_INPUT in self._engine.input_names
        self.dimensions = self._manifest.dimensions
        if self.dimensions is None:
            self.dimensions = self._find_dimensions(encoder)

    def _find_dimensions(self, encoder: TextEncoder) -> int:
        if self._takes_dimensions:
            raise ArtifactError(
                f"the graph takes {DIMENSIONS_INPUT}, but no profile says how many there are; name "
                "one that does with RERANK_MODEL_PROFILE"
            )
        request = EmbedRequest(["size"], "passage", truncate="END")
        return int(self(encoder.encode(request).rows).shape[1])

    def _lay_out(self, rows: Sequence[Encoding]) -> Arrays:
        inputs = super()._lay_out(rows)
        if not self._takes_dimensions:
            return inputs
        computed = len(next(iter(inputs.values())))
        return {**inputs, DIMENSIONS_INPUT: np.full(computed, self.dimensions, dtype=np.int64)}

    def _checked(self, outputs: Outputs, rows: int, computed: int) -> Floats:  # noqa: ARG002
        found, wanted = outputs[self._output], self.dimensions
        if found.ndim != _MATRIX_AXES or (wanted is not None and found.shape[1] != wanted):
            raise EngineError(
                f"{self._engine.name} gave an output of shape {list(found.shape)} for "
                f"{rows} rows, wanted [{rows}, {wanted or 'dimensions'}]: one pooled "
                "vector a row; RERANK_MODEL_PROFILE names another profile"
            )
        vectors = found[:rows].astype(np.float32)
        return unit(vectors) if self._normalizes else vectors


class Embedder(Model):
    """An embedder behind its scheduler; every method may be called from any thread."""

    encoder: TextEncoder

    def embed(self, request: EmbedRequest) -> Embeddings:
        """Embed every text.

        Raises InputRejected (of images InvalidImage, ImageTooLarge and TooManyTiles, and
        ImageNotAllowed where there can be none), Unavailable or EngineError.
        """
        return _embeddings(self._run(request), request.dimensions)

    async def embed_async(self, request: EmbedRequest) -> Embeddings:
        """`embed` for an event loop; cancelling the task drops its waiting rows."""
        return _embeddings(await self._run_async(request), request.dimensions)

    def prefix(self, input_type: InputType | None) -> str:
        """The prefix of texts of that type; empty for a symmetric model."""
        return self._manifest.prefixes.get(input_type, "") if input_type else ""

    def _goldens(self) -> Sequence[Known]:
        return [
            Known(EmbedRequest([golden.text], golden.input_type), golden.token_ids, golden.vector)
            for golden in self._manifest.vector_goldens
        ]

    def _of_image(self, golden: ImageGolden) -> EmbedRequest:
        return EmbedRequest([Passage(golden.text, golden.image)], "passage")

    def _samples(self) -> Sequence[EmbedRequest]:
        texts = ("A short text.", "Another one, a little longer.")
        return [EmbedRequest([text], "passage", truncate="END") for text in texts]

    def _mismatch(self, found: Floats, recorded: Sequence[float], far: float) -> str:  # noqa: ARG002
        return (
            f"engine {self.info.engine} gives a vector that differs by {far:.2g} from the one "
            "that the export recorded"
        )


def _embeddings(computed: Computed, dimensions: int | None) -> Embeddings:
    vectors = computed.outputs
    return Embeddings(
        vectors=vectors if dimensions is None else shorten(vectors, dimensions),
        token_counts=computed.token_counts,
        truncated=computed.encodings.truncated,
        timing=computed.timing,
    )
