"""What images may cost: bytes, pixels, tiles, and what is kept of them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class ImageLimits:
    """The most `bytes` of one file, and the most `pixels` of one image."""

    bytes: int = 32 << 20
    pixels: int = 50_000_000


DEFAULT_LIMITS = ImageLimits()


@dataclass(frozen=True)
class VisionLimits:
    """`image` bounds one file; `request_tiles` the tiles of one request's images, `held_tiles`
    those of all requests that are not answered yet, `call_tiles` those of one call of the tower
    (None: as suits its device); `cache_bytes` what is kept of embeddings (0: nothing)."""

    image: ImageLimits = DEFAULT_LIMITS
    request_tiles: int = 1024
    held_tiles: int = 2048
    call_tiles: int | None = None
    cache_bytes: int = 1 << 30
