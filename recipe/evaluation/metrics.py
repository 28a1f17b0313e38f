"""BEIR's metrics, computed by trec_eval (package pytrec_eval-terrier).

nDCG has linear gains. Names and rounding are BEIR's: `{"NDCG": {"NDCG@10": 0.12345}, …}`.
"""

from collections.abc import Mapping, Sequence
from statistics import fmean

Scores = Mapping[str, Mapping[str, float]]  # of each query, the score of each candidate by id
Metrics = dict[str, dict[str, float]]

_MEASURES = {"NDCG": "ndcg_cut", "MAP": "map_cut", "Recall": "recall", "Precision": "P"}
_SHORT = {"Precision": "P"}
_DIGITS = 5


def measure(
    grades: Mapping[str, Mapping[str, int]], scores: Scores, depths: Sequence[int]
) -> Metrics:
    """NDCG, MAP, Recall and Precision at each of `depths`, means over the judged queries."""
    single = measure_each(grades, scores, depths)
    return {
        name: {
            key: round(fmean(row[key] for row in single[name].values()), _DIGITS)
            for key in (f"{_SHORT.get(name, name)}@{depth}" for depth in depths)
        }
        for name in _MEASURES
    }


def measure_each(
    grades: Mapping[str, Mapping[str, int]], scores: Scores, depths: Sequence[int]
) -> dict[str, dict[str, dict[str, float]]]:
    """As `measure`, for each query: measure → query id → "NDCG@10" → value (no candidates: 0)."""
    import pytrec_eval  # late: a compiled extension that only measuring needs

    cut = ",".join(str(depth) for depth in depths)
    wanted = {f"{measure}.{cut}" for measure in _MEASURES.values()}
    evaluator = pytrec_eval.RelevanceEvaluator({q: dict(g) for q, g in grades.items()}, wanted)
    found = evaluator.evaluate({query: dict(row) for query, row in scores.items()})
    return {
        name: {
            query: {
                f"{_SHORT.get(name, name)}@{depth}": found.get(query, {}).get(
                    f"{measure}_{depth}", 0.0
                )
                for depth in depths
            }
            for query in grades
        }
        for name, measure in _MEASURES.items()
    }
