"""The result of a call."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RerankResult:
    """The ranking of n documents.

    `scores` (n): raw logits in the order of the documents, not limited to 0 … 1.
    `ranked_indices` (n, or top_n if fewer): positions of the documents, the best one first.
    `degraded`: nothing was ranked; the order is the given one and every score is 0.0.
    """

    scores: list[float]
    ranked_indices: list[int]
    degraded: bool = False


def given_order(documents: int, top_n: int | None) -> RerankResult:
    """The degraded result for this number of documents.

    The scores are equal because nothing is known: falling ones would look like a ranking.
    """
    return RerankResult([0.0] * documents, list(range(documents))[:top_n], degraded=True)
