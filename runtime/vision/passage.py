"""What a model with images ranks or embeds."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Passage:
    """A text, the bytes of an image file, or both; the text may be empty beside an image."""

    text: str = ""
    image: bytes | None = None


def split(passages: Sequence[str | Passage]) -> tuple[list[str], list[bytes | None]]:
    """The texts and the images of the passages, in their order."""
    whole = [Passage(one) if isinstance(one, str) else one for one in passages]
    return [one.text for one in whole], [one.image for one in whole]
