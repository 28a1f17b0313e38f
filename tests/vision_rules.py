"""Tile rules that tests of several rooms use, with the grids in upstream's order."""

from runtime.vision.rule import TileRule, Vision
from tests.tiny_vision import SIZE, TOKENS

FOUR = [(1, 1), (1, 2), (2, 1), (3, 1), (1, 3), (4, 1), (1, 4), (2, 2)]
SIX = [*FOUR, (1, 5), (5, 1), (6, 1), (2, 3), (1, 6), (3, 2)]

# The real model's, and the tiny one's.
REAL = TileRule(size=512, grids=SIX, thumbnail=True)
TINY = TileRule(size=SIZE, grids=FOUR, thumbnail=True)
VISION = Vision(rule=TINY, tokens=TOKENS, hidden=64, before=264, context=266, after=265)
