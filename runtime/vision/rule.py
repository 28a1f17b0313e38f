"""The pixel rule of a model that sees: how an image becomes tiles, and how many."""

from typing import Annotated, Literal

import msgspec

_Count = Annotated[int, msgspec.Meta(ge=1)]
# Columns and rows of tiles.
Grid = tuple[_Count, _Count]
Size = tuple[int, int]

# An image on more of its pixels than this share of a grid's is as good as all.
_ENOUGH = 0.6


class TileRule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How an image becomes tiles of `size` × `size` pixels.

    `grids` are (columns, rows) in the order in which they are tried: the first of those that score
    alike is taken. With `thumbnail`, an image of more than one tile has another at its end, which
    shows all of it.
    """

    size: _Count
    grids: list[Grid]
    thumbnail: bool

    def __post_init__(self) -> None:
        if not self.grids:
            raise ValueError("grids is empty, wanted at least one")

    def grid(self, size: Size) -> Grid:
        """The grid for an image of (width, height) pixels.

        Every product is one of doubles, in upstream's order: exact fractions choose otherwise for
        some sizes.
        """
        width, height = size
        aspect = width / height
        best, chosen = float("-inf"), self.grids[0]
        for columns, rows in self.grids:
            area = (columns * rows * self.size * self.size) / (width * height)
            wanted = columns / rows
            score = min(area, _ENOUGH) * min(wanted / aspect, aspect / wanted)
            if score > best:
                best, chosen = score, (columns, rows)
        return chosen

    def count(self, size: Size) -> int:
        """How many tiles an image of (width, height) pixels has, the thumbnail included."""
        columns, rows = self.grid(size)
        return columns * rows + (self.thumbnail and columns * rows > 1)

    @property
    def most(self) -> int:
        """The most tiles that an image may have."""
        tiles = max(columns * rows for columns, rows in self.grids)
        return tiles + (self.thumbnail and tiles > 1)


class Vision(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What a manifest says of a model that sees, beside its text graph.

    A tile becomes `tokens` image tokens, whose embeddings have `hidden` components. An image stands
    in a row as the token `before`, the token `context` for each of its image tokens, and the token
    `after`, all looked up in the tokenizer by their texts. `pixels` names what the tower reads of a
    tile: "siglip-bfloat16" is (v / 255 - 0.5) / 0.5 in float32, rounded to bfloat16.
    """

    rule: TileRule
    tokens: _Count
    hidden: _Count
    before: int
    context: int
    after: int
    pixels: Literal["siglip-bfloat16"] = "siglip-bfloat16"
