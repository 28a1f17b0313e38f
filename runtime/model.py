"""The façade: opens a model and ranks passages. What servers and the exporter use.

ranker = open_ranker(Path("artifacts/rank"))
ranker.warm_up()
ranker.rank("What is machine learning?", ["…", "…"]).order
"""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from runtime.artifact import OpenArtifact, closed_on_error, open_artifact
from runtime.batch import BatchLimits, assemble
from runtime.engines import open_engine
from runtime.engines.mock import byte_tokenizer
from runtime.errors import ArtifactError, DeadlineExceeded, EngineError, GoldenMismatch
from runtime.manifest import Golden, Manifest, unproven_manifest
from runtime.postprocess import Floats, Ranking, Timing, descending
from runtime.profile import Kind, load_target_profile
from runtime.scheduler import Scheduler, SchedulerStats, Scored
from runtime.text import Encoding, Encodings, PairEncoder, Truncate

DEFAULT_QUEUE_ROWS = 8192


@dataclass(frozen=True)
class ModelInfo:
    """What is served. `max_tokens` bounds one pair, `max_rows` one engine call; `version` is the
    artifact's content hash; `proven` says whether an export proved these scores."""

    kind: Kind
    model_id: str
    version: str
    profile: str
    target: str
    engine: str
    device: str
    precision: str
    max_tokens: int
    max_rows: int
    template: str | None
    mock: bool
    proven: bool


class Ranker:
    """A reranker behind its scheduler; every method may be called from any thread."""

    def __init__(self, opened: OpenArtifact, info: ModelInfo, queue_rows: int) -> None:
        self.info = info
        self._manifest = opened.manifest
        self._engine = opened.engine
        self._encoder = PairEncoder(opened.tokenizer, info.template, info.max_tokens)
        target = load_target_profile(info.target)
        limits = BatchLimits(info.max_rows, target.token_budget, target.padding_waste)
        self._scheduler = Scheduler(self._compute, limits, queue_rows)

    def encode(
        self,
        query: str,
        passages: Sequence[str],
        truncate: Truncate = "NONE",
        deadline: float | None = None,
    ) -> Encodings:
        """Tokenise as `rank` does, without scoring. Raises InputRejected or DeadlineExceeded."""
        return self._encoder.encode(query, passages, truncate, deadline)

    def rank(
        self,
        query: str,
        passages: Sequence[str],
        *,
        truncate: Truncate = "NONE",
        deadline: float | None = None,
    ) -> Ranking:
        """Score every passage for the query; `deadline` in seconds of time.monotonic().

        Raises InputRejected, Unavailable or EngineError.
        """
        began = time.monotonic()
        encodings = self.encode(query, passages, truncate, deadline)
        encoded = time.monotonic()
        future = self._scheduler.submit(encodings.rows, deadline)
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        try:
            scored = future.result(left)
        except TimeoutError as error:
            future.cancel()
            raise DeadlineExceeded from error
        return _ranking(encodings, scored, began, encoded)

    async def rank_async(
        self,
        query: str,
        passages: Sequence[str],
        *,
        truncate: Truncate = "NONE",
        deadline: float | None = None,
    ) -> Ranking:
        """`rank` for an event loop: tokenises in a worker thread and waits without one.

        Cancelling the task drops the request's rows that still wait.
        """
        began = time.monotonic()
        left = None if deadline is None else max(0.0, deadline - began)
        try:
            async with asyncio.timeout(left):
                encodings = await asyncio.to_thread(
                    self.encode, query, passages, truncate, deadline
                )
                encoded = time.monotonic()
                future = self._scheduler.submit(encodings.rows, deadline)
                scored = await asyncio.wrap_future(future)
        except TimeoutError as error:
            raise DeadlineExceeded from error
        return _ranking(encodings, scored, began, encoded)

    def warm_up(self) -> None:
        """Run a real inference and reproduce the manifest's goldens.

        Raises GoldenMismatch when ids or logits differ from what the export recorded, and
        EngineError when the engine cannot compute.
        """
        goldens = [g for g in self._manifest.goldens if len(g.token_ids) <= self.info.max_tokens]
        for golden in goldens:
            self._check_golden(golden)
        if not goldens:
            self.rank(
                "ready?", ["A short passage.", "Another one, a little longer."], truncate="END"
            )

    def queue_depth(self) -> tuple[int, int]:
        """Rows and tokens that wait for an engine call."""
        return self._scheduler.queue_depth()

    def stats(self) -> SchedulerStats:
        """Counters of rows and engine calls since the start."""
        return self._scheduler.stats()

    def close(self) -> None:
        """Answer every waiter with ModelClosed and give the engine's memory back.

        An engine that hangs keeps its memory: closing it while it computes is not safe.
        """
        if self._scheduler.close():
            self._engine.close()

    def _compute(self, rows: Sequence[Encoding]) -> Floats:
        inputs = assemble(
            rows,
            self._engine.input_names,
            self._manifest.special_tokens.pad,
            self._manifest.padding_side,
        )
        found = self._engine.run(inputs)[self._manifest.outputs[0]]
        if found.size != len(rows):
            raise EngineError(
                f"{self._engine.name} gave an output of shape {list(found.shape)} for "
                f"{len(rows)} rows, wanted one logit a row; a reranker has num_labels = 1"
            )
        return found.reshape(len(rows)).astype(np.float32)

    def _check_golden(self, golden: Golden) -> None:
        ids = self.encode(golden.query, [golden.passage]).rows[0].token_ids.tolist()
        if ids != golden.token_ids:
            raise GoldenMismatch(
                f"the tokenizer gives {ids[:12]}… for a golden text, the export recorded "
                f"{golden.token_ids[:12]}…; the tokenizer files or library changed"
            )
        logit = float(self.rank(golden.query, [golden.passage]).logits[0])
        if abs(logit - golden.logit) > self._manifest.golden_tolerance:
            raise GoldenMismatch(
                f"engine {self.info.engine} gives {logit:.6f} for a golden text, the export "
                f"recorded {golden.logit:.6f} (tolerance {self._manifest.golden_tolerance}); "
                "run `rerank-export verify` on the artifact"
            )


def open_ranker(
    directory: Path,
    *,
    manifest: Manifest | None = None,
    engine: str | None = None,
    target: str | None = None,
    profile: str | None = None,
    max_tokens: int | None = None,
    max_rows: int | None = None,
    queue_rows: int = DEFAULT_QUEUE_ROWS,
) -> Ranker:
    """Open the reranker in `directory`: an artifact, or a bare NIM_CUSTOM_MODEL directory.

    `manifest`, `engine`, `target` and `profile` as in `runtime.artifact.open_artifact`.
    `max_tokens` and `max_rows` may lower the artifact's bounds. Raises ArtifactError or
    EngineError.
    """
    opened = open_artifact(
        directory,
        manifest=manifest,
        engine=engine,
        target=target,
        profile=profile,
    )
    with closed_on_error(opened.engine):
        return _ranker(opened, max_tokens, max_rows, queue_rows)


def mock_ranker(
    *,
    profile: str = "llama-nemotron-rerank-1b-v2",
    max_tokens: int | None = None,
    max_rows: int | None = None,
    queue_rows: int = DEFAULT_QUEUE_ROWS,
) -> Ranker:
    """A ranker with deterministic scores and no weights; its tokens are UTF-8 bytes."""
    engine = open_engine("mock", Path())
    manifest = unproven_manifest(
        profile,
        target="cpu-fp32",
        version="mock",
        precision="none",
        pad_id=0,
        inputs=engine.input_names,
        outputs=engine.output_names,
    )
    opened = OpenArtifact(manifest, engine, byte_tokenizer(), proven=False)
    return _ranker(opened, max_tokens, max_rows, queue_rows)


def _ranker(
    opened: OpenArtifact, max_tokens: int | None, max_rows: int | None, queue_rows: int
) -> Ranker:
    manifest, engine = opened.manifest, opened.engine
    if manifest.kind != "rank":
        raise ArtifactError(f"found an artifact of kind {manifest.kind}, wanted a reranker (rank)")
    if max_tokens is not None and max_tokens > manifest.max_tokens:
        raise ArtifactError(
            f"found a wish for {max_tokens} tokens, the artifact takes at most "
            f"{manifest.max_tokens}; lower the setting or export with a larger maximum"
        )
    target = load_target_profile(manifest.target)
    info = ModelInfo(
        kind=manifest.kind,
        model_id=manifest.model_id,
        version=manifest.version,
        profile=manifest.profile,
        target=manifest.target,
        engine=engine.name,
        device=engine.device,
        precision=manifest.precision,
        max_tokens=max_tokens or manifest.max_tokens,
        max_rows=min(max_rows or target.max_rows, target.max_rows),
        template=manifest.template,
        mock=engine.name == "mock",
        proven=opened.proven,
    )
    return Ranker(opened, info, queue_rows)


def _ranking(encodings: Encodings, scored: Scored, began: float, encoded: float) -> Ranking:
    timing = Timing(
        tokenize_ms=(encoded - began) * 1e3,
        queue_ms=scored.queue_ms,
        engine_ms=scored.engine_ms,
        total_ms=(time.monotonic() - began) * 1e3,
    )
    counts = np.asarray([len(row) for row in encodings.rows], dtype=np.int64)
    return Ranking(
        logits=scored.logits,
        order=descending(scored.logits),
        token_counts=counts,
        truncated=encodings.truncated,
        timing=timing,
    )
