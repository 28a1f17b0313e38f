"""An embedder: turns texts into vectors."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from runtime.artifact import (
    DIMENSIONS_INPUT,
    EMBEDDINGS_OUTPUT,
    OpenArtifact,
    closed_on_error,
)
from runtime.batch import BatchLimits
from runtime.errors import ArtifactError, EngineError, GoldenMismatch
from runtime.manifest import VectorGolden
from runtime.model import Computed, Model, ModelInfo
from runtime.postprocess import Embeddings, Floats, InputType, shorten, unit
from runtime.scheduling.admission import QueueLimits
from runtime.text import (
    Check,
    Encoding,
    Encodings,
    TextEncoder,
    TokenLimits,
    Truncate,
    unchecked,
)
from runtime.tokenizing import Work, lengths

_MATRIX_AXES = 2


class Embedder(Model):
    """An embedder behind its scheduler; every method may be called from any thread."""

    def __init__(
        self,
        opened: OpenArtifact,
        info: ModelInfo,
        limits: BatchLimits,
        queue: QueueLimits,
        window_s: float,
    ) -> None:
        self._encoder = self._make_encoder(opened, info)
        names = opened.manifest.outputs
        self._output = EMBEDDINGS_OUTPUT if EMBEDDINGS_OUTPUT in names else names[0]
        # Without a manifest nobody knows whether the graph normalises; doing it twice is harmless.
        # An exported graph is left alone, because parity must see its own output.
        self._normalizes = opened.manifest.pooling == "unknown"
        super().__init__(opened, info, limits, queue, window_s)
        if info.dimensions is None:
            with closed_on_error(self):
                self.info = replace(info, dimensions=self._find_dimensions())

    def encode(
        self,
        texts: Sequence[str],
        input_type: InputType | None,
        truncate: Truncate = "NONE",
        check: Check = unchecked,
        most_tokens: int | None = None,
        *,
        blanks: bool = False,
    ) -> Encodings:
        """Tokenise as `embed` does. `check` is called between texts to cancel the work. Raises
        InputRejected and whatever `check` raises."""
        return self._encoder.encode(texts, input_type, truncate, check, most_tokens, blanks=blanks)

    def prefix(self, input_type: InputType | None) -> str:
        """The prefix of texts of that type; empty for a symmetric model."""
        return self._manifest.prefixes.get(input_type, "") if input_type else ""

    def embed(
        self,
        texts: Sequence[str],
        *,
        input_type: InputType | None = None,
        truncate: Truncate = "NONE",
        dimensions: int | None = None,
        most_tokens: int | None = None,
        blanks: bool = False,
        deadline: float | None = None,
        caller: str = "",
    ) -> Embeddings:
        """Embed every text in `dimensions` components (None, or more than there are: all).

        `most_tokens` bounds the tokens of each text. With `blanks`, texts may be blank. `deadline`
        is in seconds of time.monotonic(). Fair queueing counts by `caller`; requests without one
        are one caller. Raises InputRejected, Unavailable or EngineError.
        """
        work = self._work(texts, input_type, truncate, most_tokens, blanks, deadline, caller)
        return as_embeddings(self._run(work), dimensions)

    async def embed_async(
        self,
        texts: Sequence[str],
        *,
        input_type: InputType | None = None,
        truncate: Truncate = "NONE",
        dimensions: int | None = None,
        most_tokens: int | None = None,
        blanks: bool = False,
        deadline: float | None = None,
        caller: str = "",
    ) -> Embeddings:
        """`embed` for an event loop; cancelling the task drops its waiting rows."""
        work = self._work(texts, input_type, truncate, most_tokens, blanks, deadline, caller)
        computed = await self._run_async(work)
        return as_embeddings(computed, dimensions)

    def _make_encoder(self, opened: OpenArtifact, info: ModelInfo) -> TextEncoder:
        return TextEncoder(opened.tokenizer, opened.manifest.prefixes, info.max_tokens)

    def _checks(self) -> Sequence[tuple[Encoding, Callable[[], object]]]:
        goldens = self._manifest.vector_goldens
        goldens = [g for g in goldens if len(g.token_ids) <= self.info.max_tokens]
        if goldens:
            return [
                (self._row(golden.text, golden.input_type), partial(self._check_golden, golden))
                for golden in goldens
            ]
        return [
            (
                self._row(text, "passage"),
                partial(self.embed, [text], input_type="passage", truncate="END"),
            )
            for text in ("A short text.", "Another one, a little longer.")
        ]

    def _row(self, text: str, input_type: InputType | None) -> Encoding:
        return self.encode([text], input_type, "END").rows[0]

    def _work(
        self,
        texts: Sequence[str],
        input_type: InputType | None,
        truncate: Truncate,
        most_tokens: int | None,
        blanks: bool,
        deadline: float | None,
        caller: str,
    ) -> Work:
        return Work(
            characters=lengths([""] * len(texts), texts),
            encode=lambda check: self.encode(
                texts, input_type, truncate, check, most_tokens, blanks=blanks
            ),
            deadline=deadline,
            caller=caller,
            limits=TokenLimits(pair=most_tokens),
        )

    def _find_dimensions(self) -> int:
        if DIMENSIONS_INPUT in self._engine.input_names:
            raise ArtifactError(
                f"the graph takes {DIMENSIONS_INPUT}, but no profile says how many there are; name "
                "one that does with RERANK_MODEL_PROFILE"
            )
        (row,) = self.encode(["size"], "passage", "END").rows
        return int(self._compute([row]).shape[1])

    def _lay_out(self, rows: Sequence[Encoding]) -> dict[str, np.ndarray]:
        inputs = super()._lay_out(rows)
        if DIMENSIONS_INPUT in self._engine.input_names:
            computed = len(next(iter(inputs.values())))
            inputs[DIMENSIONS_INPUT] = np.full(computed, self.info.dimensions, dtype=np.int64)
        return inputs

    def _compute(self, rows: Sequence[Encoding]) -> Floats:
        found = self._engine.run(self._lay_out(rows))[self._output]
        wanted = self.info.dimensions
        if found.ndim != _MATRIX_AXES or (wanted is not None and found.shape[1] != wanted):
            raise EngineError(
                f"{self._engine.name} gave an output of shape {list(found.shape)} for "
                f"{len(rows)} rows, wanted [{len(rows)}, {wanted or 'dimensions'}]: one pooled "
                "vector a row; RERANK_MODEL_PROFILE names another profile"
            )
        vectors = found[: len(rows)].astype(np.float32)
        return unit(vectors) if self._normalizes else vectors

    def _check_golden(self, golden: VectorGolden) -> None:
        ids = self.encode([golden.text], golden.input_type).rows[0].token_ids.tolist()
        self._require_ids(ids, golden.token_ids)
        (vector,) = self.embed([golden.text], input_type=golden.input_type).vectors
        recorded = np.asarray(golden.vector, dtype=np.float64)
        far = float(np.abs(vector - recorded).max()) if vector.shape == recorded.shape else np.inf
        if far > self._manifest.golden_tolerance:
            raise GoldenMismatch(
                f"engine {self.info.engine} gives a vector that differs by {far:.2g} from the one "
                f"that the export recorded (tolerance {self._manifest.golden_tolerance}); run "
                "`rerank-export verify` on the artifact"
            )


def as_embeddings(computed: Computed, dimensions: int | None) -> Embeddings:
    """The answer of a request, its vectors cut to `dimensions` where there are more."""
    vectors = computed.outputs
    return Embeddings(
        vectors=vectors if dimensions is None else shorten(vectors, dimensions),
        token_counts=computed.token_counts,
        truncated=computed.encodings.truncated,
        timing=computed.timing,
    )
