"""Embeddings of images that were seen before: a page that is ranked for many queries goes through
the tower once."""

import threading
from collections import OrderedDict
from dataclasses import dataclass

from runtime.requests import ImageEmbeddings


@dataclass(frozen=True)
class CacheStats:
    """Images that were known and that were computed, since the model was opened; what is kept
    now."""

    hits: int
    misses: int
    images: int
    bytes: int


class EmbedsCache:
    """At most `most_bytes` of embeddings, by the sha256 of the image's file; what was used last
    stays. It belongs to one model with one tile rule, and ends with it. Safe to call from several
    threads."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._held: OrderedDict[bytes, ImageEmbeddings] = OrderedDict()
        self._bytes = self._hits = self._misses = 0
        self._lock = threading.Lock()

    def get(self, digest: bytes) -> ImageEmbeddings | None:
        """The image of this file, which counts as a hit; None where it is not kept."""
        with self._lock:
            found = self._held.get(digest)
            if found is not None:
                self._hits += 1
                self._held.move_to_end(digest)
            return found

    def find(self, digest: bytes) -> ImageEmbeddings | None:
        """The image of this file, without counting it as a hit or a miss."""
        with self._lock:
            return self._held.get(digest)

    def count(self, *, hits: int, misses: int) -> None:
        """Count images that are known meanwhile, and those that will be computed."""
        with self._lock:
            self._hits += hits
            self._misses += misses

    def put(self, image: ImageEmbeddings) -> None:
        """Keep an image, which owns its memory; others go until there is room. One that is larger
        than all of it is not kept."""
        with self._lock:
            if image.digest in self._held or image.embeds.nbytes > self._most_bytes:
                return
            self._held[image.digest] = image
            self._bytes += image.embeds.nbytes
            while self._bytes > self._most_bytes:
                _, oldest = self._held.popitem(last=False)
                self._bytes -= oldest.embeds.nbytes

    def stats(self) -> CacheStats:
        """A snapshot of the counters."""
        with self._lock:
            return CacheStats(self._hits, self._misses, len(self._held), self._bytes)
