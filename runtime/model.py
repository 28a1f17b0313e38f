"""The base of every served model: an encoder, a tokenizer pool, a scheduler, and its ModelInfo."""

import asyncio
import logging
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np

from runtime.artifact import OpenArtifact
from runtime.batch import INPUT_NAMES, BatchLimits, assemble
from runtime.errors import (
    DeadlineExceeded,
    EngineError,
    GoldenMismatch,
    OutOfMemory,
)
from runtime.postprocess import EngineCall, Floats, Ints, Timing
from runtime.profile import Kind
from runtime.scheduling.admission import QueueLimits
from runtime.scheduling.request import Scored
from runtime.scheduling.scheduler import Scheduler
from runtime.scheduling.stats import SchedulerStats
from runtime.shapes import Shape
from runtime.text import NO_LIMITS, Encoding, Encodings, TokenLimits
from runtime.tokenizing import Encoded, TokenizerPool, Work, lengths
from runtime.tokens import Token, tokens_of
from runtime.vision.cache import CacheStats

T = TypeVar("T")

_log = logging.getLogger(__name__)

# The most tokens that one request may list: as many as a mebibyte of real text has.
_MOST_LISTED_TOKENS = 1 << 18


@dataclass(frozen=True)
class ModelInfo:
    """Facts about a served model.

    `max_tokens` bounds one pair or text; `max_rows` and `token_budget` (rows × longest row) bound
    one engine call. `version` is the artifact's content hash, `engine_version` the version of the
    engine's library. `proven` says whether an export proved these scores against `witness`, an
    independent loader; `witness` is "not witnessed" and the reason where there was none.

    Embedders: `dimensions` is the size of a vector; `asymmetric` models embed queries and passages
    differently. `images` says whether passages may be images.
    """

    kind: Kind
    model_id: str
    version: str
    profile: str
    target: str
    engine: str
    engine_version: str
    device: str
    precision: str
    pooling: str
    max_tokens: int
    max_rows: int
    token_budget: int
    template: str | None
    mock: bool
    proven: bool
    witness: str
    dimensions: int | None = None
    asymmetric: bool = False
    images: bool = False


@dataclass(frozen=True)
class Computed:
    """One request's encodings and their `outputs`, float32 [n] or [n, d]."""

    encodings: Encodings
    outputs: Floats
    timing: Timing

    @property
    def token_counts(self) -> Ints:
        """Tokens of each row, int64 [n]."""
        return np.asarray([len(row) for row in self.encodings.rows], dtype=np.int64)


class Model(ABC):
    """A model behind its scheduler; every method may be called from any thread."""

    def __init__(
        self,
        opened: OpenArtifact,
        info: ModelInfo,
        limits: BatchLimits,
        queue: QueueLimits,
        window_s: float,
    ) -> None:
        self.info = info
        self._manifest = opened.manifest
        self._engine = opened.engine
        self._tokenizer = opened.tokenizer
        # While `warm_up` checks padding: a longer row that joins calls of one row.
        self._padding_row: Encoding | None = None
        self._limits = limits
        self._scheduler = Scheduler(
            self._compute, limits, queue, window_s, lanes=opened.engine.lanes
        )
        self._tokenizer_pool = TokenizerPool()
        self._lock = threading.Lock()
        self._users = 0
        self._engine_closed = False

    def warm_up(self) -> None:
        """Run real inferences and reproduce the manifest's goldens, the shortest one padded too.

        A GPU computes the largest batch first. Raises GoldenMismatch when ids or outputs differ
        from the recorded ones, EngineError when the engine fails, and DeviceLost when its device is
        lost.
        """
        if self._engine.device.startswith("cuda"):
            self._reserve_gpu_memory()
        checks = self._checks()
        for _, check in checks:
            check()
        row, check = min(checks, key=lambda one: len(one[0]))
        padding = f"{self._manifest.padding_side} with token {self._manifest.special_tokens.pad}"
        try:
            with self._padded(row):
                check()
        except GoldenMismatch as error:
            if not self._limits.padding_waste:  # no batch pads here: its scores would move
                return
            raise GoldenMismatch(f"in a call that pads on the {padding}: {error}") from error
        except EngineError as error:
            raise EngineError(f"in a call that pads on the {padding}: {error}") from error

    @abstractmethod
    def _checks(self) -> Sequence[tuple[Encoding, Callable[[], object]]]:
        """The warm-up checks: pairs of a row and a function that computes it alone. For a golden,
        the function also compares the result."""

    @contextmanager
    def _padded(self, row: Encoding) -> Iterator[None]:
        """Within the block, add a longer row to calls of `row` alone, so that it is padded.

        Without effect when no batch can hold both. OutOfMemory is ignored: such batches are halved
        later.
        """
        limits, tokens = replace(self._limits, padding_waste=1.0), len(row)
        lengths = range(min(2 * tokens, self.info.max_tokens), tokens, -1)
        longer = next((n for n in lengths if limits.allow(2, tokens + n, n)), None)
        if longer is not None:
            type_ids = None if row.type_ids is None else np.resize(row.type_ids, longer)
            self._padding_row = Encoding(np.resize(row.token_ids, longer), type_ids)
        try:
            with suppress(OutOfMemory):
                yield
        finally:
            self._padding_row = None

    def _reserve_gpu_memory(self) -> None:
        """Compute the largest batch that the limits allow, so that GPU memory is reserved once.

        The engine keeps GPU memory for later calls. If the largest call comes first, all others fit
        into its memory. If it came last, theirs would be too small for it and stay allocated too.
        A batch that does not fit is found here, before any request waits, and the limits are
        lowered until `reset_limits`.
        """
        tokens, limits = self.info.max_tokens, self._limits
        rows = range(limits.max_rows, 1, -1)
        count = next((n for n in rows if limits.allow(n, n * tokens, tokens)), 1)
        row = Encoding(np.full(tokens, self._manifest.special_tokens.pad, np.int64), None)
        try:
            self.compute([row] * count)
        except OutOfMemory:
            _log.warning(
                "the GPU has no memory for one row of %d tokens: until it has, requests with such "
                "rows are refused; lower NIM_TRITON_MAX_SEQ_LENGTH, or raise "
                "RERANK_GPU_MEMORY_BYTES",
                tokens,
            )

    async def tokenize_async(
        self,
        texts: Sequence[str],
        use: Callable[[Iterator[Iterator[Token]]], T],
        *,
        add_special_tokens: bool,
        blanks: bool = False,
        deadline: float | None = None,
        caller: str = "",
    ) -> T:
        """Tokenise each text alone, without template or prefix, and return what `use` makes of the
        tokens; `use` runs in a thread. With `blanks`, texts may be blank.

        The texts take queue capacity meanwhile, and requests of this kind run one at a time.
        Cancelling the task stops the work after the current text. Raises InputTooLong for too many
        tokens, InputRejected, DeadlineExceeded, or Unavailable.
        """
        estimate = self._estimate(lengths([""] * len(texts), texts))
        # No deadline for admission: this work does not wait for the engine.
        with self._scheduler.admit(len(texts), estimate, None, caller, for_engine=False) as ticket:

            def work() -> T:
                ticket.check()
                found = tokens_of(
                    self._tokenizer,
                    texts,
                    _MOST_LISTED_TOKENS,
                    add_special_tokens=add_special_tokens,
                    check=ticket.check,
                    blanks=blanks,
                )
                return use(found)

            try:
                async with asyncio.timeout(_left(deadline)):
                    return await self._tokenizer_pool.list_async(work)
            except TimeoutError as error:
                raise DeadlineExceeded from error

    @property
    def files(self) -> Mapping[str, str]:
        """The artifact's files and their hashes at opening time; empty without a manifest."""
        return self._manifest.files

    @property
    def vocabulary_size(self) -> int:
        """One more than the tokenizer's largest token id."""
        return 1 + max(self._tokenizer.get_vocab().values())

    def compute(self, rows: Sequence[Encoding]) -> Floats:
        """Compute n encoded rows, blocking. Returns float32 [n] or [n, d].

        Raises Unavailable or EngineError.
        """
        return self._scheduler.submit(rows, None).result().outputs

    def on_engine_call(self, callback: Callable[[EngineCall], None]) -> None:
        """Call `callback` after every successful engine call, in the thread that made it."""
        self._scheduler.on_engine_call(callback)

    def pending(self) -> int:
        """Requests with rows that wait for an engine call."""
        return self._scheduler.pending()

    def queue_depth(self) -> tuple[int, int]:
        """Rows and tokens that wait for an engine call."""
        return self._scheduler.queue_depth()

    def stats(self) -> SchedulerStats:
        """Counters of rows and engine calls since the start."""
        return self._scheduler.stats()

    def cache_stats(self) -> CacheStats | None:
        """Counters of the cache of image embeddings; None for a model that takes no images."""
        return None

    def set_limits(self, limits: BatchLimits) -> None:
        """Apply `limits` to batches from now on, except its `shapes`, which stay the engine's.
        `rerank-export tune` compares limits."""
        self._scheduler.set_limits(replace(limits, shapes=self._engine.shapes))

    def reset_limits(self) -> None:
        """Restore the limits that the model was opened with, after memory has become free."""
        self._scheduler.set_limits(self._limits)

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Count a user for the block, so that `idle` is False until the request is answered."""
        with self._lock:
            self._users += 1
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1

    def idle(self) -> bool:
        """Whether the model has no users, and no request is being tokenised, waits or runs."""
        with self._lock:
            used = self._users > 0
        return not used and self._scheduler.idle()

    def inherit_estimates(self, before: "Model") -> None:
        """Start from the estimates that `before`, the replaced model, has measured."""
        self._tokenizer_pool.inherit_estimates(before._tokenizer_pool)
        self._scheduler.inherit_estimates(before._scheduler)

    @property
    def unreachable(self) -> bool:
        """Whether a remote engine is unreachable."""
        return self._scheduler.unreachable

    def reconnect(self) -> None:
        """Warm up again; on success the remote engine counts as reachable.

        Raises as `warm_up` does, and Unavailable while the engine is unreachable.
        """
        self.warm_up()
        self._scheduler.mark_reachable()

    def fault(self, patience_s: float) -> str | None:
        """A fault of the engine that only a new process mends, as a sentence; None without one.

        Faults are a lost device, a call that runs for more than `patience_s` seconds, and an ended
        thread that calls the engine.
        """
        if self._scheduler.device_lost:
            return "the device failed"
        if not self._scheduler.alive():
            return "the thread that calls the engine has ended"
        running_s = self._scheduler.running_s()
        if running_s > patience_s:
            return f"an engine call has been running for {running_s:.0f} s"
        return None

    def close(self) -> None:
        """Answer every waiting request with ModelClosed and free the engine's memory.

        A hanging engine keeps its memory: closing it during a call is not safe. May be called again
        and from several threads.
        """
        if self._scheduler.close():
            with self._lock:
                closed, self._engine_closed = self._engine_closed, True
            if not closed:
                self._engine.close()
        self._tokenizer_pool.close()

    @abstractmethod
    def _compute(self, rows: Sequence[Encoding]) -> Floats:
        """Compute n encodings: float32 [n] or [n, d]. The scheduler's threads call it."""

    def _lay_out(self, rows: Sequence[Encoding]) -> dict[str, np.ndarray]:
        """The engine's inputs for these encodings, padded to the shape that it computes, which may
        have more rows."""
        padding_row = self._padding_row  # read once: another thread may reset it
        if padding_row is not None and len(rows) == 1:
            rows = [*rows, padding_row]
        pad, side = self._manifest.special_tokens.pad, self._manifest.padding_side
        names = [name for name in self._engine.input_names if name in INPUT_NAMES]
        shape = self._engine.shape_for(len(rows), max(map(len, rows)))
        inputs = dict(assemble(rows, names, pad, side, shape))
        return inputs | self._image_inputs(rows, shape)

    def _image_inputs(
        self,
        rows: Sequence[Encoding],  # noqa: ARG002
        shape: Shape,  # noqa: ARG002
    ) -> dict[str, np.ndarray]:
        """More inputs, for models that take images."""
        return {}

    def _run(self, work: Work) -> Computed:
        """Encode and compute, blocking."""
        began = time.monotonic()
        estimate = self._estimate(work.characters, work.limits)
        with self._scheduler.admit(work.rows, estimate, work.deadline, work.caller) as ticket:
            encoded = self._tokenizer_pool.encode(work, ticket.check)
            tokenized = time.monotonic()
            future = ticket.submit(encoded.rows)
        try:
            scored = future.result(_left(work.deadline))
        except TimeoutError as error:
            future.cancel()
            raise DeadlineExceeded from error
        return _computed(encoded, scored, began, tokenized)

    async def _run_async(self, work: Work) -> Computed:
        """`_run` for an event loop: encodes in a thread, and waits without one."""
        began = time.monotonic()
        estimate = self._estimate(work.characters, work.limits)
        try:
            async with asyncio.timeout(_left(work.deadline)):
                with self._scheduler.admit(
                    work.rows, estimate, work.deadline, work.caller
                ) as ticket:
                    encoded = await self._tokenizer_pool.encode_async(work, ticket.check)
                    tokenized = time.monotonic()
                    future = ticket.submit(encoded.rows)
                scored = await asyncio.wrap_future(future)
        except TimeoutError as error:
            raise DeadlineExceeded from error
        return _computed(encoded, scored, began, tokenized)

    def _estimate(self, characters: Ints, limits: TokenLimits = NO_LIMITS) -> int:
        """An estimate of the tokens of all rows; the arguments are those of Work."""
        return self._tokenizer_pool.estimate(characters, limits, self.info.max_tokens)

    def _require_ids(self, found: list[int], recorded: list[int]) -> None:
        if found != recorded:
            raise GoldenMismatch(
                f"the tokenizer gives {found[:12]}… for a golden text, the export recorded "
                f"{recorded[:12]}…; the tokenizer files or library changed"
            )


def _left(deadline: float | None) -> float | None:
    return None if deadline is None else max(0.0, deadline - time.monotonic())


def _computed(encoded: Encoded, scored: Scored, began: float, tokenized: float) -> Computed:
    timing = Timing(
        tokenize_ms=(tokenized - began) * 1e3,
        queue_ms=scored.queue_ms,
        engine_ms=scored.engine_ms,
        total_ms=(time.monotonic() - began) * 1e3,
        began=began,
        calls=scored.calls,
    )
    return Computed(encoded.encodings, scored.outputs[encoded.places], timing)
