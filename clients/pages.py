"""The pages that clients rank and embed, and the runtime's own answers about each (`witness`).

Standard library only, because it runs inside each client's environment.
"""

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass

from clients.environment import ENVIRONMENTS

WITNESSED = ENVIRONMENTS / "pages.json"
QUERY = "Which quarter was the best?"

RANKER = "nvidia/llama-nemotron-rerank-vl-1b-v2"
EMBEDDER = "nvidia/llama-nemotron-embed-vl-1b-v2"

# Of 1, or of the value itself if that is larger.
_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Page:
    """A text, the base64 of an image, or both; its logit for QUERY, and its vector as a passage."""

    text: str
    image: str
    logit: float
    vector: list[float]

    @property
    def url(self) -> str:
        """The image as a data URL; "" without one."""
        return f"data:image/png;base64,{self.image}" if self.image else ""

    @property
    def bytes(self) -> bytes:
        """The image's file."""
        return base64.b64decode(self.image)


def pages() -> list[Page]:
    """All of them: texts, images and both by turns."""
    return [Page(**one) for one in json.loads(WITNESSED.read_text())]


def assert_ranked(ranked: Sequence[Page], order: Sequence[int], scores: Sequence[float]) -> None:
    """Every page once, best first, and `scores` in that order are the runtime's logits."""
    if sorted(order) != list(range(len(ranked))):
        raise AssertionError(f"found pages {sorted(order)}, wanted each of {len(ranked)} once")
    if list(scores) != sorted(scores, reverse=True):
        raise AssertionError(f"found another order than that of the scores {scores}")
    for index, score in zip(order, scores, strict=True):
        _assert_near(score, ranked[index].logit, f"page {index}")


def assert_embedded(embedded: Sequence[Page], found: Sequence[Sequence[float]]) -> None:
    """The runtime's vectors in the order of the pages."""
    for place, (page, vector) in enumerate(zip(embedded, found, strict=True)):
        for ours, theirs in zip(vector, page.vector, strict=True):
            _assert_near(ours, theirs, f"page {place}")


def _assert_near(found: float, wanted: float, what: str) -> None:
    if not abs(found - wanted) <= _TOLERANCE * max(1.0, abs(wanted)):
        raise AssertionError(f"{what}: found {found}, the runtime itself says {wanted}")
