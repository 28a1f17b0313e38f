"""A reranker: scores passages for a query."""

from collections.abc import Sequence

import numpy as np

from runtime.engines import Outputs
from runtime.errors import EngineError
from runtime.forward import Forward
from runtime.manifest import ImageGolden
from runtime.model import Computed, Known, Model
from runtime.postprocess import Floats, Ranking, descending
from runtime.requests import Passage, RankRequest
from runtime.text import PairEncoder


class Logits(Forward):
    """One logit a row, float32 [n]."""

    def _checked(self, outputs: Outputs, rows: int, computed: int) -> Floats:
        found = outputs[self._manifest.outputs[0]]
        if found.size != computed:
            raise EngineError(
                f"{self._engine.name} gave an output of shape {list(found.shape)} for "
                f"{rows} rows, wanted one logit a row; a reranker has num_labels = 1"
            )
        return found.reshape(-1)[:rows].astype(np.float32)


class Ranker(Model):
    """A reranker behind its scheduler; every method may be called from any thread."""

    encoder: PairEncoder

    def rank(self, request: RankRequest) -> Ranking:
        """Score every passage for the query.

        Raises InputRejected (of images InvalidImage, ImageTooLarge and TooManyTiles, and
        ImageNotAllowed where the model takes none), Unavailable or EngineError.
        """
        return self._ranking(self._run(request))

    async def rank_async(self, request: RankRequest) -> Ranking:
        """`rank` for an event loop; cancelling the task drops its waiting rows."""
        return self._ranking(await self._run_async(request))

    def _ranking(self, computed: Computed) -> Ranking:
        return Ranking(
            logits=computed.outputs,
            order=descending(computed.outputs),
            token_counts=computed.token_counts,
            truncated=computed.encodings.truncated,
            timing=computed.timing,
            activation=self._manifest.activation or "sigmoid",
        )

    def _goldens(self) -> Sequence[Known]:
        return [
            Known(RankRequest(golden.query, [golden.passage]), golden.token_ids, [golden.logit])
            for golden in self._manifest.goldens
        ]

    def _of_image(self, golden: ImageGolden) -> RankRequest:
        return RankRequest(golden.query, [Passage(golden.text, golden.image)])

    def _samples(self) -> Sequence[RankRequest]:
        texts = ("A short passage.", "Another one, a little longer.")
        return [RankRequest("ready?", [text], truncate="END") for text in texts]

    def _mismatch(self, found: Floats, recorded: Sequence[float], far: float) -> str:  # noqa: ARG002
        return (
            f"engine {self.info.engine} gives {found.item():.6f} for a golden text, the export "
            f"recorded {recorded[0]:.6f}"
        )
