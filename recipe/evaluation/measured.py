"""Columns to compare, with their scores and the data they were measured on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from recipe.evaluation.collection import Collection
from recipe.evaluation.metrics import Scores, measure_each
from recipe.evaluation.results import Column
from recipe.evaluation.significance import Figures

COMPARED = ("NDCG", "Recall")


@dataclass(frozen=True)
class Measured:
    """Columns to compare: figures at `depths` and scores, each by column, and their data."""

    results: Mapping[str, Column]
    scores: Mapping[str, Scores]
    collection: Collection
    depths: Sequence[int]

    @property
    def key(self) -> str:
        """The figure that is usually quoted: NDCG@10 where it was measured."""
        return f"NDCG@{10 if 10 in self.depths else max(self.depths)}"

    def compared(self) -> list[tuple[str, str]]:
        """Each compared metric with its key at each depth."""
        return [(metric, f"{metric}@{depth}") for metric in COMPARED for depth in self.depths]

    def figures(self, column: str) -> Figures:
        """float64 [queries, keys]: the figures of each judged query, by its name."""
        single = measure_each(self.collection.grades, self.scores[column], self.depths)
        return np.array(
            [
                [single[metric][query][key] for metric, key in self.compared()]
                for query in sorted(self.collection.grades)
            ]
        )

    def unmovable(self) -> int:
        """Queries that no order of their candidates can help: no positive is among them.

        All columns have the same candidates.
        """
        candidates = next(iter(self.scores.values()))
        return sum(
            not any(judged.get(name, 0) > 0 for name in candidates.get(query, {}))
            for query, judged in self.collection.grades.items()
        )
