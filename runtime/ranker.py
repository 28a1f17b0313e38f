"""A reranker: scores passages for a query."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from runtime.artifact import OpenArtifact
from runtime.batch import BatchLimits
from runtime.errors import EngineError, GoldenMismatch
from runtime.manifest import Golden
from runtime.model import Computed, Model, ModelInfo
from runtime.postprocess import Floats, Ranking, descending
from runtime.scheduling.admission import QueueLimits
from runtime.text import (
    NO_LIMITS,
    Check,
    Encoding,
    Encodings,
    PairEncoder,
    Pairs,
    TokenLimits,
    Truncate,
    unchecked,
)
from runtime.tokenizing import Work, lengths


class Ranker(Model):
    """A reranker behind its scheduler; every method may be called from any thread."""

    def __init__(
        self,
        opened: OpenArtifact,
        info: ModelInfo,
        limits: BatchLimits,
        queue: QueueLimits,
        window_s: float,
    ) -> None:
        self._encoder = self._make_encoder(opened, info)
        self._activation = opened.manifest.activation or "sigmoid"
        super().__init__(opened, info, limits, queue, window_s)

    def encode(
        self,
        query: str,
        passages: Sequence[str],
        truncate: Truncate = "NONE",
        check: Check = unchecked,
        limits: TokenLimits = NO_LIMITS,
        *,
        blanks: bool = False,
    ) -> Encodings:
        """Tokenise as `rank` does, without scoring. `check` is called between texts to cancel the
        work. Raises InputRejected and whatever `check` raises."""
        return self._encoder.encode(query, passages, truncate, check, limits, blanks=blanks)

    def rank(
        self,
        query: str,
        passages: Sequence[str],
        *,
        truncate: Truncate = "NONE",
        deadline: float | None = None,
        limits: TokenLimits = NO_LIMITS,
        blanks: bool = False,
        caller: str = "",
    ) -> Ranking:
        """Score every passage for the query; `deadline` in seconds of time.monotonic().

        `limits` bound the tokens. With `blanks`, texts may be blank. Fair queueing counts by
        `caller`; requests without one are one caller. Raises InputRejected, Unavailable or
        EngineError.
        """
        work = self._work(query, passages, truncate, deadline, limits, blanks, caller)
        return self._ranking(self._run(work))

    async def rank_async(
        self,
        query: str,
        passages: Sequence[str],
        *,
        truncate: Truncate = "NONE",
        deadline: float | None = None,
        limits: TokenLimits = NO_LIMITS,
        blanks: bool = False,
        caller: str = "",
    ) -> Ranking:
        """`rank` for an event loop; cancelling the task drops its waiting rows."""
        work = self._work(query, passages, truncate, deadline, limits, blanks, caller)
        return self._ranking(await self._run_async(work))

    async def rank_pairs_async(
        self,
        pairs: Pairs,
        *,
        truncate: Truncate = "NONE",
        deadline: float | None = None,
        limits: TokenLimits = NO_LIMITS,
        blanks: bool = False,
        caller: str = "",
    ) -> Ranking:
        """`rank_async` for (query, passage) pairs with different queries, as one request. Errors
        name the texts as in PairEncoder.encode_pairs."""
        work = Work(
            characters=lengths([query for query, _ in pairs], [passage for _, passage in pairs]),
            encode=lambda check: self._encoder.encode_pairs(
                pairs, truncate, check, limits, blanks=blanks
            ),
            deadline=deadline,
            caller=caller,
            limits=limits,
        )
        return self._ranking(await self._run_async(work))

    def _make_encoder(self, opened: OpenArtifact, info: ModelInfo) -> PairEncoder:
        return PairEncoder(opened.tokenizer, info.template, info.max_tokens)

    def _checks(self) -> Sequence[tuple[Encoding, Callable[[], object]]]:
        goldens = [g for g in self._manifest.goldens if len(g.token_ids) <= self.info.max_tokens]
        if goldens:
            return [
                (self._row(golden.query, golden.passage), partial(self._check_golden, golden))
                for golden in goldens
            ]
        return [
            (self._row("ready?", text), partial(self.rank, "ready?", [text], truncate="END"))
            for text in ("A short passage.", "Another one, a little longer.")
        ]

    def _row(self, query: str, passage: str) -> Encoding:
        return self.encode(query, [passage], "END").rows[0]

    def _work(
        self,
        query: str,
        passages: Sequence[str],
        truncate: Truncate,
        deadline: float | None,
        limits: TokenLimits,
        blanks: bool,
        caller: str,
    ) -> Work:
        return Work(
            characters=lengths([query] * len(passages), passages),
            encode=lambda check: self.encode(
                query, passages, truncate, check, limits, blanks=blanks
            ),
            deadline=deadline,
            caller=caller,
            limits=limits,
        )

    def _ranking(self, computed: Computed) -> Ranking:
        return Ranking(
            logits=computed.outputs,
            order=descending(computed.outputs),
            token_counts=computed.token_counts,
            truncated=computed.encodings.truncated,
            timing=computed.timing,
            activation=self._activation,
        )

    def _compute(self, rows: Sequence[Encoding]) -> Floats:
        inputs = self._lay_out(rows)
        found = self._engine.run(inputs)[self._manifest.outputs[0]]
        if found.size != len(next(iter(inputs.values()))):
            raise EngineError(
                f"{self._engine.name} gave an output of shape {list(found.shape)} for "
                f"{len(rows)} rows, wanted one logit a row; a reranker has num_labels = 1"
            )
        return found.reshape(-1)[: len(rows)].astype(np.float32)

    def _check_golden(self, golden: Golden) -> None:
        ids = self.encode(golden.query, [golden.passage]).rows[0].token_ids.tolist()
        self._require_ids(ids, golden.token_ids)
        logit = float(self.rank(golden.query, [golden.passage]).logits[0])
        if abs(logit - golden.logit) > self._manifest.golden_tolerance:
            raise GoldenMismatch(
                f"engine {self.info.engine} gives {logit:.6f} for a golden text, the export "
                f"recorded {golden.logit:.6f} (tolerance {self._manifest.golden_tolerance}); "
                "run `rerank-export verify` on the artifact"
            )
