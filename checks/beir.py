"""nDCG@10 of a ranker over BM25's candidates, on a folder in BEIR's layout."""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from runtime.model import Ranker

CANDIDATES = 50
DEPTH = 10
# The usual constants of BM25.
_K1, _B = 1.2, 0.75
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Collection:
    """Texts of the corpus, queries with judgements, and per query the grade of each text."""

    texts: list[str]
    queries: list[str]
    grades: list[dict[int, float]]


def read_collection(folder: Path) -> Collection:
    """Read corpus.jsonl, queries.jsonl and qrels/test.tsv."""
    corpus = _lines(folder / "corpus.jsonl")
    number = {row["_id"]: index for index, row in enumerate(corpus)}
    grades: dict[str, dict[int, float]] = defaultdict(dict)
    for line in (folder / "qrels" / "test.tsv").read_text().splitlines()[1:]:
        query, document, grade = line.split("\t")
        grades[query][number[document]] = float(grade)
    judged = [row for row in _lines(folder / "queries.jsonl") if row["_id"] in grades]
    return Collection(
        texts=[f"{row.get('title', '')} {row['text']}".strip() for row in corpus],
        queries=[row["text"] for row in judged],
        grades=[grades[row["_id"]] for row in judged],
    )


class Bm25:
    """Plain BM25 over lower-cased words, no stemming and no stop words."""

    def __init__(self, texts: Sequence[str]) -> None:
        counts = [Counter(_words(text)) for text in texts]
        lengths = np.asarray([sum(count.values()) for count in counts], dtype=np.float64)
        self._norm = _K1 * (1 - _B + _B * lengths / lengths.mean())
        self._found: dict[str, list[tuple[int, int]]] = defaultdict(list)
        for index, count in enumerate(counts):
            for word, times in count.items():
                self._found[word].append((index, times))

    def best(self, query: str, count: int) -> list[int]:
        """Indexes of the `count` best texts, best first."""
        total = len(self._norm)
        scores = np.zeros(total)
        for word in _words(query):
            if word not in self._found:
                continue
            where, times = np.asarray(self._found[word]).T
            rarity = np.log(1 + (total - len(where) + 0.5) / (len(where) + 0.5))
            scores[where] += rarity * times * (_K1 + 1) / (times + self._norm[where])
        order: npt.NDArray[np.int64] = np.argsort(-scores, kind="stable")[:count]
        return order.tolist()


def ndcg(order: Sequence[int], grades: Mapping[int, float]) -> float:
    """nDCG@10 with linear gains of texts in this `order`, best first."""
    discounts = 1 / np.log2(np.arange(2, DEPTH + 2))
    gains = np.asarray([grades.get(index, 0.0) for index in order[:DEPTH]])
    ideal = np.asarray(sorted(grades.values(), reverse=True)[:DEPTH])
    return float(gains @ discounts[: len(gains)] / (ideal @ discounts[: len(ideal)]))


def rerank(ranker: Ranker, collection: Collection, queries: int) -> tuple[float, float]:
    """Mean nDCG@10 of BM25 and of the ranker over BM25's candidates, for the first `queries`."""
    bm25 = Bm25(collection.texts)
    figures = []
    for query, grades in list(zip(collection.queries, collection.grades, strict=True))[:queries]:
        candidates = bm25.best(query, CANDIDATES)
        found = ranker.rank(query, [collection.texts[i] for i in candidates], truncate="END")
        reranked = [candidates[i] for i in found.order]
        figures.append((ndcg(candidates, grades), ndcg(reranked, grades)))
    plain, model = np.mean(figures, axis=0)
    return float(plain), float(model)


def _lines(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())
