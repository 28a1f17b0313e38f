"""BM25, nDCG and reranking on a collection small enough to judge by eye."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from checks.beir import candidates, ndcg, rerank
from recipe.evaluation.collection import read_collection
from runtime.opening import open_embedder
from runtime.requests import EmbedRequest, RankRequest

TEXTS = ("the cat sat", "wings and lift of aircraft", "lift of a delta wing", "bread")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rows = [f'{{"_id": "d{i}", "title": "", "text": "{text}"}}' for i, text in enumerate(TEXTS)]
    (tmp_path / "corpus.jsonl").write_text("\n".join(rows))
    queries = '{"_id": "q1", "text": "lift of wing"}\n{"_id": "q2", "text": "never judged"}'
    (tmp_path / "queries.jsonl").write_text(queries)
    (tmp_path / "qrels").mkdir()
    judged = "query-id\tcorpus-id\tscore\nq1\td1\t4\nq1\td2\t1\n"
    (tmp_path / "qrels" / "test.tsv").write_text(judged)
    return tmp_path


class LongestFirst:
    def rank(self, request: RankRequest) -> Any:
        return SimpleNamespace(order=np.argsort([-len(p) for p in request.texts], kind="stable"))


def test_unjudged_queries_are_left_out(folder: Path) -> None:
    collection = read_collection(folder)
    assert collection.queries == {"q1": "lift of wing"}
    assert collection.grades == {"q1": {"d1": 4, "d2": 1}}


def test_bm25_prefers_texts_with_more_and_rarer_words(folder: Path) -> None:
    assert candidates(read_collection(folder), 1)["q1"][:2] == ["d2", "d1"]


def test_ndcg_is_one_for_the_ideal_order_and_discounts_others() -> None:
    grades = {"q": {"d1": 4, "d2": 1}}
    assert ndcg({"q": ["d1", "d2", "d0"]}, grades) == [1.0]
    swapped = (1 + 4 / np.log2(3)) / (4 + 1 / np.log2(3))
    assert ndcg({"q": ["d2", "d1"]}, grades) == [pytest.approx(swapped)]
    assert ndcg({"q": ["d0", "d3"]}, {"q": {"d1": 4}}) == [0.0]


def test_reranking_is_measured_against_bm25(folder: Path) -> None:
    plain, model = rerank(LongestFirst(), read_collection(folder), queries=5)
    assert plain < model == 1.0


def test_an_embedder_orders_by_cosine(folder: Path, embed_artifact: Path) -> None:
    collection = read_collection(folder)
    embedder = open_embedder(embed_artifact)
    try:
        _, model = rerank(embedder, collection, queries=5)
        asked = embedder.embed(EmbedRequest([collection.queries["q1"]], "query")).vectors
        found = embedder.embed(EmbedRequest(TEXTS, "passage")).vectors
    finally:
        embedder.close()
    among = candidates(collection, 1)["q1"]
    order = sorted(among, key=lambda name: -float(found[int(name[1:])] @ asked[0]))
    assert model == pytest.approx(ndcg({"q1": order}, collection.grades)[0])
