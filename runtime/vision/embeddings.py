"""An image as the text graph sees it, and its place in a row of tokens."""

from dataclasses import dataclass

from runtime.postprocess import Floats
from runtime.text import Encoding


@dataclass(frozen=True)
class ImageEmbeddings:
    """An image's embeddings float32 [tiles, tokens, hidden]; `digest` is the file's sha256."""

    digest: bytes
    embeds: Floats

    @property
    def tiles(self) -> int:
        """How many there are."""
        return len(self.embeds)


@dataclass(frozen=True)
class ImageEncoding(Encoding):
    """A row with one image, whose image tokens are those from `start` on."""

    image: ImageEmbeddings
    start: int

    @property
    def key(self) -> tuple[bytes, ...]:
        """See Encoding."""
        return *super().key, self.image.digest
