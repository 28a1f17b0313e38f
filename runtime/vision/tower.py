"""The vision tower behind its own scheduler: from the bytes of images to their embeddings.

Tiles of all waiting requests share its calls. A request keeps room for its tiles from before they
are decoded until it is answered, so that pixels and embeddings together have a bound.
"""

import asyncio
import hashlib
import threading
import time
import warnings
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

import numpy as np

from runtime.batch import BatchLimits
from runtime.cores import usable_cores
from runtime.engines import Engine
from runtime.errors import (
    DeadlineExceeded,
    EngineError,
    GoldenMismatch,
    OutOfMemory,
    Overloaded,
    TextPlace,
    TooLate,
    TooManyTiles,
)
from runtime.manifest import ImageGolden
from runtime.postprocess import Floats
from runtime.requests import AnyRequest, ImageEmbeddings, time_left_s
from runtime.scheduling.admission import QueueLimits
from runtime.scheduling.backlog import Ticket
from runtime.scheduling.request import Scored
from runtime.scheduling.scheduler import Scheduler
from runtime.shapes import widest
from runtime.tokenizing import in_thread
from runtime.vision.cache import EmbedsCache
from runtime.vision.decoding import ImageFile, open_image
from runtime.vision.in_flight import Awaited, Claim, InFlight
from runtime.vision.layout import EMBEDS_OUTPUT, PIXELS_INPUT
from runtime.vision.limits import VisionLimits
from runtime.vision.rule import Vision
from runtime.vision.stats import ImageStats
from runtime.vision.tiling import Pixels, cut, pixel_values

# An image takes some 10 bytes a pixel while it is decoded and cut, so few may be at the same time.
_MOST_DECODERS = 4
# Four pages of seven tiles.
_GPU_CALL_TILES = 28
_CPU_CALL_TILES = 2
_OWN_LIMITS = VisionLimits()

T = TypeVar("T")


def _nothing(_: int) -> float:
    return 0.0


@dataclass(frozen=True, eq=False)
class Tile:
    """One row of the tower's calls: uint8 [size, size, 3]. Its length is what the scheduler counts,
    and all are alike."""

    pixels: Pixels

    def __len__(self) -> int:
        return 1


@dataclass
class _Task:
    """A request's images in their `order`: those that are `known`, and the `pictures` that are not
    yet, each once. `tiles` are those of all of them."""

    order: list[bytes | None]
    known: dict[bytes, ImageEmbeddings] = field(default_factory=dict)
    pictures: dict[bytes, ImageFile] = field(default_factory=dict)
    counts: dict[bytes, int] = field(default_factory=dict)

    @property
    def tiles(self) -> int:
        return sum(self.counts.values())

    def tiles_of(self, digests: Iterable[bytes]) -> int:
        return sum(self.counts[digest] for digest in digests)

    def learn(self, image: ImageEmbeddings | None) -> None:
        """An image that was computed; None where another request did not, so that this one tries
        again."""
        if image is not None:
            self.known[image.digest] = image
            del self.pictures[image.digest]

    def seen(self, request: AnyRequest) -> AnyRequest:
        """The request with the embeddings of its images."""
        texts = [
            text
            if digest is None or isinstance(text, str)
            else replace(text, image=self.known[digest])
            for text, digest in zip(request.texts, self.order, strict=True)
        ]
        return replace(request, texts=texts)


class Tower:
    """A vision engine and its cache; every method may be called from any thread."""

    def __init__(self, engine: Engine, vision: Vision, limits: VisionLimits) -> None:
        # Pillow warns of what a broken file says of itself; a caller must not fill the log with it.
        warnings.filterwarnings("ignore", module=r"PIL\.")
        self._engine = engine
        self.vision = vision
        self._limits = limits
        self.cache = EmbedsCache(limits.cache_bytes)
        # Tiles of one call bring a CPU nothing but the memory that they take.
        on_gpu = engine.device.startswith("cuda")
        call_tiles = limits.call_tiles or (_GPU_CALL_TILES if on_gpu else _CPU_CALL_TILES)
        self._call_tiles = min(call_tiles, widest(engine.shapes) or call_tiles)
        calls = BatchLimits(self._call_tiles, self._call_tiles, 0.0)
        # `_room` bounds what waits; no more than this can.
        most = max(limits.held_tiles, limits.request_tiles)
        queue = QueueLimits(most, most)
        compute = partial(_embed, engine, vision)
        self.scheduler = Scheduler(compute, calls, queue, lanes=engine.lanes, free=engine.close)
        threads = min(_MOST_DECODERS, usable_cores())
        # Apart, so that an image that the cache knows does not wait until others are decoded.
        self._lookers = ThreadPoolExecutor(threads, thread_name_prefix="image-headers")
        self._decoders = ThreadPoolExecutor(threads, thread_name_prefix="images")
        self._in_flight = InFlight(self.cache.find)
        self._held = 0
        self._lock = threading.Lock()

    @contextmanager
    def embedded(
        self,
        request: AnyRequest,
        after_s: Callable[[int], float] = _nothing,
        *,
        own: bool = False,
    ) -> Iterator[AnyRequest]:
        """The request with embeddings in the place of its images' files; `after_s` predicts how
        many seconds are needed behind the tower for so many tiles. The limits do not bound the
        model's `own` images.

        Their room is kept for the length of the block. Raises InvalidImage, ImageTooLarge and
        TooManyTiles, Unavailable and EngineError; what headers and the measured speed tell, before
        anything is decoded.
        """
        task = self._look(request, _OWN_LIMITS if own else self._limits)
        with self._room(task.tiles):
            while task.pictures:
                with self._in_flight.claim(task.pictures) as claim:
                    due = self._due(task, claim, request.deadline, after_s)
                    self._compute(task, claim, due, request.caller)
                for other in claim.others.values():
                    task.learn(_result(other, due))
            yield task.seen(request)

    @asynccontextmanager
    async def embedded_async(
        self, request: AnyRequest, after_s: Callable[[int], float] = _nothing
    ) -> AsyncIterator[AnyRequest]:
        """`embedded` for an event loop: looks and decodes in threads of its own; cancelling the
        task drops the tiles that still wait."""
        try:
            async with asyncio.timeout(time_left_s(request.deadline)):
                look = partial(self._look, request, self._limits)
                task = await in_thread(self._lookers, look)
        except TimeoutError as error:
            raise DeadlineExceeded from error
        with self._room(task.tiles):
            while task.pictures:
                with self._in_flight.claim(task.pictures) as claim:
                    due = self._due(task, claim, request.deadline, after_s)
                    try:
                        async with asyncio.timeout(time_left_s(due)):
                            await self._compute_async(task, claim, due, request.caller)
                    except TimeoutError as error:
                        raise DeadlineExceeded from error
                try:
                    async with asyncio.timeout(time_left_s(due)):
                        for other in claim.others.values():
                            task.learn(await _unshared(other))
                except TimeoutError as error:
                    raise DeadlineExceeded from error
            yield task.seen(request)

    def _due(
        self,
        task: _Task,
        claim: Claim,
        deadline: float | None,
        after_s: Callable[[int], float],
    ) -> float | None:
        """When the tower must be done. Raises TooLate and DeadlineExceeded."""
        if deadline is None:
            return None
        left_s = deadline - time.monotonic()
        if left_s <= 0:
            raise DeadlineExceeded
        tiles, text_s = task.tiles_of(claim.own), after_s(task.tiles)
        tower_s = self.scheduler.predicted_s(tiles)
        if tower_s + text_s > left_s:
            raise TooLate(
                f"the {tiles} tiles of these images would take {tower_s:.0f} s alone and the text "
                f"model another {text_s:.0f} s, longer than the request's deadline; send fewer or "
                "smaller images, or raise NIM_REQUEST_TIMEOUT_S"
            )
        return deadline - text_s

    def _compute(self, task: _Task, claim: Claim, due: float | None, caller: str) -> None:
        for image in claim.found:
            task.learn(image)
        with self._admit(task, claim, due, caller) as tickets, _cancelled_at_end() as futures:
            for digest, ticket in tickets.items():
                ticket.check()
                tiles = self._decode(task.pictures[digest])
                futures[digest] = self._submit(ticket, tiles, digest, claim.own[digest])
            for digest, future in futures.items():
                _result(future, due)
                task.learn(claim.own[digest].result())

    async def _compute_async(
        self, task: _Task, claim: Claim, due: float | None, caller: str
    ) -> None:
        for image in claim.found:
            task.learn(image)
        with self._admit(task, claim, due, caller) as tickets, _cancelled_at_end() as futures:
            for digest, ticket in tickets.items():
                ticket.check()
                decode = partial(self._decode, task.pictures[digest])
                tiles = await in_thread(self._decoders, decode)
                futures[digest] = self._submit(ticket, tiles, digest, claim.own[digest])
            for digest, future in futures.items():
                await asyncio.wrap_future(future)
                task.learn(await _unshared(claim.own[digest]))

    @contextmanager
    def _admit(
        self, task: _Task, claim: Claim, due: float | None, caller: str
    ) -> Iterator[dict[bytes, Ticket]]:
        """A ticket for each claimed image: each is computed, and given to others who wait for it,
        as soon as it is decoded. Who only waits for others must be in time as well."""
        admit = partial(self.scheduler.admit, deadline=due, caller=caller)
        with ExitStack() as stack:
            if claim.others and not claim.own:
                stack.enter_context(admit(0, 0))
            tickets = {
                digest: stack.enter_context(admit(tiles, tiles))
                for digest in claim.own
                for tiles in [task.counts[digest]]
            }
            self.cache.count(hits=len(claim.found) + len(claim.others), misses=len(claim.own))
            yield tickets

    def _submit(
        self, ticket: Ticket, tiles: list[Tile], digest: bytes, awaited: Awaited
    ) -> Future[Scored]:
        future = ticket.submit(tiles)
        future.add_done_callback(partial(self._keep, digest, awaited))
        return future

    def _keep(self, digest: bytes, awaited: Awaited, future: Future[Scored]) -> None:
        """Give an image's embeddings to the cache and to everybody who waits for it."""
        image = None
        try:
            if not future.cancelled() and future.exception() is None:
                image = ImageEmbeddings(digest, future.result().outputs)
                self.cache.put(image)
        finally:
            self._in_flight.finish(digest, awaited, image)

    def idle(self) -> bool:
        """Whether no request's images are looked at, wait, run or are kept for it."""
        with self._lock:
            return not self._held and self.scheduler.idle()

    def stats(self) -> ImageStats:
        """A snapshot of the counters."""
        cached = self.cache.stats()
        return ImageStats(self.scheduler.stats().inference_count, cached.hits, cached.misses)

    def fault(self, patience_s: float) -> str | None:
        """See Model.fault."""
        if self.scheduler.device_lost:
            return "the device failed at images"
        if not self.scheduler.alive():
            return "the thread that calls the vision engine has ended"
        running_s = self.scheduler.running_s()
        if running_s > patience_s:
            return f"a call of the vision engine has been running for {running_s:.0f} s"
        return None

    def reserve_memory(self) -> None:
        """On a GPU compute the largest call, so that all later ones fit into its memory."""
        if not self._engine.device.startswith("cuda"):
            return
        size = self.vision.rule.size
        tile = Tile(np.zeros((size, size, 3), np.uint8))
        with suppress(OutOfMemory):  # calls are halved then
            self.scheduler.submit([tile] * self._call_tiles, None).result()

    def close(self) -> None:
        """Answer every waiter with ModelClosed and give the engine's memory back, unless it hangs.
        May be called again, and from several threads."""
        self.scheduler.close()
        self._lookers.shutdown(wait=False)
        self._decoders.shutdown(wait=False)

    def check_pixels(self, golden: ImageGolden, pillow: str | None) -> None:
        """Raise GoldenMismatch if the tower reads other pixels of a golden image than the export,
        which had this version of Pillow."""
        image = open_image(golden.image, TextPlace("a golden image")).decode()
        pixels = pixel_values(cut(image, self.vision.rule))
        if (digest := hashlib.sha256(pixels.tobytes()).hexdigest()) != golden.pixels:
            raise GoldenMismatch(
                f"the pixels of a golden image have the sha256 {digest[:12]}…, the export recorded "
                f"{golden.pixels[:12]}…; the version of Pillow changed: install the one in "
                f"constraints.txt (the export had {pillow})"
            )

    def _look(self, request: AnyRequest, limits: VisionLimits) -> _Task:
        """Read the headers of what the cache does not know."""
        task = _Task([])
        for index, text in enumerate(request.texts):
            data = None if isinstance(text, str) else text.image
            digest = hashlib.sha256(data).digest() if isinstance(data, bytes) else None
            task.order.append(digest)
            if not isinstance(data, bytes) or digest is None or digest in task.counts:
                continue
            if found := self.cache.get(digest):
                task.known[digest] = found
                task.counts[digest] = found.tiles
                continue
            picture = open_image(data, request.image_place(index), limits.image)
            task.pictures[digest] = picture
            task.counts[digest] = self.vision.rule.count(picture.size)
        if task.tiles > limits.request_tiles:
            raise TooManyTiles(task.tiles, limits.request_tiles)
        return task

    def _decode(self, picture: ImageFile) -> list[Tile]:
        return [Tile(pixels) for pixels in cut(picture.decode(), self.vision.rule)]

    @contextmanager
    def _room(self, tiles: int) -> Iterator[None]:
        """Count a request's tiles as held. Where nothing is, there is room for any request."""
        with self._lock:
            if self._held and self._held + tiles > self._limits.held_tiles:
                raise Overloaded(
                    f"requests with {self._held} image tiles are not answered yet, and there is "
                    f"room for {self._limits.held_tiles}; this request brings {tiles}"
                )
            self._held += tiles
        try:
            yield
        finally:
            with self._lock:
                self._held -= tiles


def _embed(engine: Engine, vision: Vision, tiles: Sequence[Tile]) -> Floats:
    """The embeddings of these tiles. No method of the tower: the scheduler would keep a replaced
    one in memory until the next garbage collection."""
    # A larger shape is filled up with copies of the first tile.
    computed, _ = engine.shape_for(len(tiles), 1)
    filled = [*tiles, *[tiles[0]] * (computed - len(tiles))]
    values = pixel_values(np.stack([tile.pixels for tile in filled]))
    found = engine.run({PIXELS_INPUT: values})[EMBEDS_OUTPUT][: len(tiles)]
    wanted = (len(tiles), vision.tokens, vision.hidden)
    if found.shape != wanted:
        raise EngineError(
            f"{engine.name} gave image embeddings of shape {list(found.shape)}, wanted "
            f"{list(wanted)}; export the checkpoint again"
        )
    return found.astype(np.float32, copy=False)


def _result(future: Future[T], due: float | None) -> T:
    """What the future gives in time. Raises DeadlineExceeded."""
    try:
        return future.result(time_left_s(due))
    except TimeoutError as error:
        raise DeadlineExceeded from error


async def _unshared(future: Future[T]) -> T:
    """What the future gives; cancelling this task does not cancel what others wait for."""
    return await asyncio.shield(asyncio.wrap_future(future))


@contextmanager
def _cancelled_at_end() -> Iterator[dict[bytes, Future[Scored]]]:
    """Futures of which those that are not done when the block ends are dropped."""
    futures: dict[bytes, Future[Scored]] = {}
    try:
        yield futures
    finally:
        for future in futures.values():
            future.cancel()
