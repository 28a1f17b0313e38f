"""Counters of a model's images."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ImageStats:
    """Counters since the start: `tiles` that were computed, and how often an image was in the cache
    (`hits`) and was not (`misses`)."""

    tiles: int = 0
    hits: int = 0
    misses: int = 0

    def __add__(self, other: "ImageStats") -> "ImageStats":
        """The sum of both."""
        return ImageStats(
            self.tiles + other.tiles, self.hits + other.hits, self.misses + other.misses
        )
