"""Rerankers and embedders of texts and images: a text model with a vision tower beside it.

A request without an image takes the text model's own way, and costs what it costs there.
"""

import hashlib
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace

import numpy as np

from runtime.artifact import OpenArtifact, closed_on_error
from runtime.batch import BatchLimits
from runtime.embedder import Embedder, as_embeddings
from runtime.errors import GoldenMismatch, TextPlace
from runtime.manifest import ImageGolden
from runtime.model import Computed, Model, ModelInfo
from runtime.postprocess import Embeddings, InputType, Ranking
from runtime.ranker import Ranker
from runtime.scheduling.admission import QueueLimits
from runtime.scheduling.stats import SchedulerStats
from runtime.shapes import Shape
from runtime.text import NO_LIMITS, Encoding, TokenLimits, Truncate
from runtime.tokenizing import Work, lengths
from runtime.vision.cache import CacheStats
from runtime.vision.decoding import open_image
from runtime.vision.embeddings import ImageEmbeddings
from runtime.vision.encoding import VisionPairEncoder, VisionTextEncoder
from runtime.vision.layout import image_inputs
from runtime.vision.limits import VisionLimits
from runtime.vision.passage import Passage, split
from runtime.vision.tiling import cut, pixel_values
from runtime.vision.tower import Tower

_DEFAULT_LIMITS = VisionLimits()


class VisionModel(Model):
    """What both kinds share: the tower, and the places of images in engine calls."""

    def __init__(
        self,
        opened: OpenArtifact,
        info: ModelInfo,
        limits: BatchLimits,
        queue: QueueLimits,
        window_s: float,
        vision_limits: VisionLimits = _DEFAULT_LIMITS,
    ) -> None:
        vision, engine = opened.manifest.vision, opened.tower
        assert vision is not None
        assert engine is not None
        self._vision = vision
        self._tower = Tower(engine, vision, vision_limits)
        with closed_on_error(self._tower):
            super().__init__(opened, info, limits, queue, window_s)

    def warm_up(self) -> None:
        """See Model; images' goldens too, after the tower's largest call on a GPU."""
        self._tower.reserve_memory()
        super().warm_up()
        for golden in self._manifest.image_goldens:
            if len(golden.token_ids) <= self.info.max_tokens:
                self._check_image_golden(golden)

    def cache_stats(self) -> CacheStats:
        """See Model."""
        return self._tower.cache_stats()

    def tower_stats(self) -> SchedulerStats:
        """Counters of the tower's calls; a row is a tile, and has one token."""
        return self._tower.stats()

    def idle(self) -> bool:
        """See Model."""
        return self._tower.idle() and super().idle()

    def inherit_estimates(self, before: Model) -> None:
        """See Model."""
        super().inherit_estimates(before)
        if isinstance(before, VisionModel):
            self._tower.inherit_estimates(before._tower)

    def fault(self, patience_s: float) -> str | None:
        """See Model."""
        return super().fault(patience_s) or self._tower.fault(patience_s)

    def close(self) -> None:
        """See Model."""
        self._tower.close()
        super().close()

    @contextmanager
    def embedded_images(
        self,
        images: Sequence[bytes | None],
        called: Callable[[int], TextPlace],
        deadline: float | None = None,
        caller: str = "",
    ) -> Iterator[list[ImageEmbeddings | None]]:
        """See Tower.embedded; `called` names an image by its number. Tiles are only taken when the
        text model has time for their tokens as well."""
        names = [called(number) for number in range(len(images))]
        with self._tower.embedded(images, names, deadline, caller, self._text_s) as found:
            yield found

    @asynccontextmanager
    async def embedded_images_async(
        self,
        images: Sequence[bytes | None],
        called: Callable[[int], TextPlace],
        deadline: float | None = None,
        caller: str = "",
    ) -> AsyncIterator[list[ImageEmbeddings | None]]:
        """`embedded_images` for an event loop."""
        names = [called(number) for number in range(len(images))]
        tower = self._tower.embedded_async(images, names, deadline, caller, self._text_s)
        async with tower as found:
            yield found

    def _text_s(self, tiles: int) -> float:
        """Seconds that the text model takes at least for images of so many tiles."""
        return self._scheduler.predicted_s(tiles * self._vision.tokens)

    def _image_inputs(self, rows: Sequence[Encoding], shape: Shape) -> dict[str, np.ndarray]:
        return dict(image_inputs(rows, self._manifest.padding_side, shape, self._vision))

    def _check_image_golden(self, golden: ImageGolden) -> None:
        name = "a golden image"
        image = open_image(golden.image, TextPlace(name)).decode()
        pixels = pixel_values(cut(image, self._vision.rule))
        if (digest := hashlib.sha256(pixels.tobytes()).hexdigest()) != golden.pixels:
            raise GoldenMismatch(
                f"the pixels of {name} have the sha256 {digest[:12]}…, the export recorded "
                f"{golden.pixels[:12]}…; the version of Pillow changed: install the one in "
                f"constraints.txt (the export had {self._manifest.versions.get('pillow')})"
            )
        found = self._of_golden(golden)
        self._require_ids(found.encodings.rows[0].token_ids.tolist(), golden.token_ids)
        far = float(np.abs(found.outputs.reshape(-1) - np.asarray(golden.outputs)).max())
        if far > self._manifest.golden_tolerance:
            raise GoldenMismatch(
                f"engine {self.info.engine} differs by {far:.2g} from what the export recorded for "
                f"{name} (tolerance {self._manifest.golden_tolerance}); run `rerank-export verify` "
                "on the artifact"
            )

    def _of_golden(self, golden: ImageGolden) -> Computed:
        raise NotImplementedError


class VisionRanker(VisionModel, Ranker):
    """A reranker of texts and images; every method may be called from any thread."""

    def _make_encoder(self, opened: OpenArtifact, info: ModelInfo) -> VisionPairEncoder:
        assert info.template is not None
        assert opened.manifest.vision is not None
        vision = opened.manifest.vision
        return VisionPairEncoder(opened.tokenizer, info.template, info.max_tokens, vision)

    def rank(
        self,
        query: str,
        passages: Sequence[str | Passage],
        *,
        truncate: Truncate = "NONE",
        deadline: float | None = None,
        limits: TokenLimits = NO_LIMITS,
        blanks: bool = False,
        caller: str = "",
    ) -> Ranking:
        """See Ranker.rank. Raises InvalidImage, ImageTooLarge and TooManyTiles as well."""
        began = time.monotonic()
        texts, images = split(passages)
        with self.embedded_images(images, _passage_image, deadline, caller) as found:
            work = self._image_work(query, texts, found, truncate, deadline, limits, blanks, caller)
            return self._ranking(_timed(self._run(work), began))

    async def rank_async(
        self,
        query: str,
        passages: Sequence[str | Passage],
        *,
        truncate: Truncate = "NONE",
        deadline: float | None = None,
        limits: TokenLimits = NO_LIMITS,
        blanks: bool = False,
        caller: str = "",
    ) -> Ranking:
        """See Ranker.rank_async and `rank`."""
        began = time.monotonic()
        texts, images = split(passages)
        async with self.embedded_images_async(images, _passage_image, deadline, caller) as found:
            work = self._image_work(query, texts, found, truncate, deadline, limits, blanks, caller)
            return self._ranking(_timed(await self._run_async(work), began))

    def _image_work(
        self,
        query: str,
        texts: Sequence[str],
        images: Sequence[ImageEmbeddings | None],
        truncate: Truncate,
        deadline: float | None,
        limits: TokenLimits,
        blanks: bool,
        caller: str,
    ) -> Work:
        encoder = self._encoder
        assert isinstance(encoder, VisionPairEncoder)
        return Work(
            characters=lengths([query] * len(texts), texts),
            encode=lambda check: encoder.encode(
                query, texts, truncate, check, limits, blanks=blanks, images=images
            ),
            deadline=deadline,
            caller=caller,
            limits=limits,
        )

    def _of_golden(self, golden: ImageGolden) -> Computed:
        with self.embedded_images([golden.image], _passage_image) as images:
            work = self._image_work(
                golden.query, [golden.text], images, "NONE", None, NO_LIMITS, False, ""
            )
            return self._run(work)


class VisionEmbedder(VisionModel, Embedder):
    """An embedder of texts and images; every method may be called from any thread."""

    def _make_encoder(self, opened: OpenArtifact, info: ModelInfo) -> VisionTextEncoder:
        vision, prefixes = opened.manifest.vision, opened.manifest.prefixes
        assert vision is not None
        return VisionTextEncoder(opened.tokenizer, prefixes, info.max_tokens, vision)

    def embed(
        self,
        texts: Sequence[str | Passage],
        *,
        input_type: InputType | None = None,
        truncate: Truncate = "NONE",
        dimensions: int | None = None,
        most_tokens: int | None = None,
        blanks: bool = False,
        deadline: float | None = None,
        caller: str = "",
    ) -> Embeddings:
        """See Embedder.embed. Images are passages. Raises InvalidImage, ImageTooLarge,
        TooManyTiles and ImageNotAllowed as well."""
        began = time.monotonic()
        plain, images = split(texts)
        with self.embedded_images(images, _input_image, deadline, caller) as found:
            work = self._image_work(
                plain, found, input_type, truncate, most_tokens, blanks, deadline, caller
            )
            return as_embeddings(_timed(self._run(work), began), dimensions)

    async def embed_async(
        self,
        texts: Sequence[str | Passage],
        *,
        input_type: InputType | None = None,
        truncate: Truncate = "NONE",
        dimensions: int | None = None,
        most_tokens: int | None = None,
        blanks: bool = False,
        deadline: float | None = None,
        caller: str = "",
    ) -> Embeddings:
        """See Embedder.embed_async and `embed`."""
        began = time.monotonic()
        plain, images = split(texts)
        async with self.embedded_images_async(images, _input_image, deadline, caller) as found:
            work = self._image_work(
                plain, found, input_type, truncate, most_tokens, blanks, deadline, caller
            )
            return as_embeddings(_timed(await self._run_async(work), began), dimensions)

    def _image_work(
        self,
        texts: Sequence[str],
        images: Sequence[ImageEmbeddings | None],
        input_type: InputType | None,
        truncate: Truncate,
        most_tokens: int | None,
        blanks: bool,
        deadline: float | None,
        caller: str,
    ) -> Work:
        encoder = self._encoder
        assert isinstance(encoder, VisionTextEncoder)
        return Work(
            characters=lengths([""] * len(texts), texts),
            encode=lambda check: encoder.encode(
                texts, input_type, truncate, check, most_tokens, blanks=blanks, images=images
            ),
            deadline=deadline,
            caller=caller,
            limits=TokenLimits(pair=most_tokens),
        )

    def _of_golden(self, golden: ImageGolden) -> Computed:
        with self.embedded_images([golden.image], _input_image) as images:
            work = self._image_work([golden.text], images, "passage", "NONE", None, False, None, "")
            return self._run(work)


def _passage_image(number: int) -> TextPlace:
    return TextPlace("passages", number, "image")


def _input_image(number: int) -> TextPlace:
    return TextPlace("input", number)


def _timed(computed: Computed, began: float) -> Computed:
    """The request's time with that of its images."""
    timing = computed.timing
    image_ms = (timing.began - began) * 1e3
    return replace(
        computed,
        timing=replace(timing, began=began, image_ms=image_ms, total_ms=timing.total_ms + image_ms),
    )
