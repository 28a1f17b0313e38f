"""Measuring: metrics, candidates, drift, the stage eval and what it refuses."""

import json
import math
from pathlib import Path

import msgspec
import numpy as np
import pytest

from exporter.parity import compare_order
from recipe.cli import main
from recipe.durable import JournalWriter
from recipe.errors import BadInput, Drifted
from recipe.evaluation.candidates import find_candidates
from recipe.evaluation.collection import Collection, read_collection
from recipe.evaluation.drift import (
    Drift,
    find_drift,
    recall_sentences,
    tolerance,
    verdict,
)
from recipe.evaluation.measured import Measured
from recipe.evaluation.metrics import Metrics, measure
from recipe.evaluation.results import Basis, Column, add_column, read_results
from recipe.evaluation.scorers import ArtifactScorer
from recipe.evaluation.session import open_session, require_no_drift
from recipe.vectors import Vectors
from runtime.postprocess import InputType
from tests.recipe.killing import interrupt_after
from tests.recipe.models.material import LENGTH_TOKENS, TEMPLATE, write_beir
from tests.recipe.stored import stored

pytestmark = pytest.mark.usefixtures("undrawn")

EVAL = Path("output/rerank/stage3_eval")
BASIS = Basis(eval_beir="a", candidates="b", prompt_template=None, max_length=8)


def column(metrics: Metrics, basis: Basis = BASIS) -> Column:
    facts = {"source": "somewhere", "identity": "x", "basis": basis}
    return msgspec.convert({**metrics, **facts}, Column)


def test_ndcg_is_what_the_formula_says() -> None:
    grades = {"q": {"a": 2, "b": 1}}
    scores = {"q": {"c": 3.0, "a": 2.0, "b": 1.0}}
    found = measure(grades, scores, [1, 3])
    gained = 2 / math.log2(3) + 1 / math.log2(4)
    assert found["NDCG"]["NDCG@1"] == 0.0
    assert found["NDCG"]["NDCG@3"] == pytest.approx(gained / (2 + 1 / math.log2(3)), abs=1e-5)
    assert found["Recall"] == {"Recall@1": 0.0, "Recall@3": 1.0}
    assert found["Precision"]["P@3"] == pytest.approx(2 / 3, abs=1e-5)
    assert found["MAP"]["MAP@3"] == pytest.approx((1 / 2 + 2 / 3) / 2, abs=1e-5)


def test_a_query_without_candidates_counts_as_nothing_found() -> None:
    found = measure({"q": {"a": 1}, "r": {"a": 1}}, {"q": {"a": 1.0}}, [1])
    assert found["NDCG"]["NDCG@1"] == 0.5


@pytest.mark.parametrize("chunk", [1, 3, 100])
def test_candidates_are_the_nearest_whatever_the_chunks(chunk: int, tmp_path: Path) -> None:
    vectors = np.random.default_rng(0).standard_normal((12, 4)).astype(np.float32)

    def embed(texts: object, kind: InputType) -> Vectors:
        assert isinstance(texts, list)
        return stored(tmp_path, np.stack([vectors[int(text)] for text in texts]))

    texts = {f"d{n}": str(n) for n in range(10)}
    collection = Collection(texts, {"q": "10", "r": "11"}, {}, "digest")
    found = find_candidates(collection, embed, 4, chunk, {}, lambda _: None).found
    lengths = np.linalg.norm(vectors, axis=1)
    for query, row in (("q", 10), ("r", 11)):
        cosines = vectors[:10] @ vectors[row] / lengths[:10] / lengths[row]
        assert [name for name, _ in found[query]] == [f"d{n}" for n in np.argsort(-cosines)[:4]]


def test_tau_counts_pairs_and_leaves_ties_of_the_reference_out() -> None:
    def tau(*scores: list[float]) -> float | None:
        wanted, found = map(np.asarray, scores)
        return compare_order([wanted], [found], 2e-3).tau

    assert tau([3.0, 2.0, 1.0], [30.0, 20.0, 10.0]) == 1.0
    assert tau([3.0, 2.0, 1.0], [10.0, 20.0, 30.0]) == -1.0
    assert tau([3.0, 2.0, 1.0], [30.0, 10.0, 20.0]) == pytest.approx(1 / 3)
    assert tau([1.0, 1.0001], [0.0, 5.0]) is None


def test_the_first_boundary_where_quality_changes_is_named() -> None:
    collection = Collection({}, {"q": "text"}, {"q": {"a": 1}}, "digest")
    good, bad = {"q": {"a": 2.0, "b": 1.0}}, {"q": {"a": 1.0, "b": 2.0}}
    scores = {"finetuned": good, "onnx": good, "tensorrt": bad, "nim": bad}
    results = {name: column(measure(collection.grades, s, [1])) for name, s in scores.items()}
    drift = find_drift(list(scores), Measured(results, scores, collection, [1]))
    assert drift.first_change is not None
    assert (drift.first_change.before, drift.first_change.after) == ("onnx", "tensorrt")
    assert [b.tau for b in drift.boundaries] == [1.0, -1.0, 1.0]
    assert drift.past == [
        ("tensorrt", "NDCG@1"),
        ("tensorrt", "Recall@1"),
        ("nim", "NDCG@1"),
        ("nim", "Recall@1"),
    ]
    assert drift.first_change.queries[0].query == "q"


def drift_of(*figures: float) -> Drift:
    """The drift of a chain whose NDCG@10 is `figures` and whose scores never change."""
    collection = Collection({}, {"q": "text"}, {"q": {"a": 1}}, "digest")
    scores = {"q": {"a": 2.0, "b": 1.0}}
    metrics = measure(collection.grades, scores, [10])
    chain = ["finetuned", "onnx", "tensorrt", "nim"][: len(figures)]
    results = {
        name: column({**metrics, "NDCG": {"NDCG@10": figure}})
        for name, figure in zip(chain, figures, strict=True)
    }
    measured = Measured(results, dict.fromkeys(chain, scores), collection, [10])
    return find_drift(chain, measured)


@pytest.mark.parametrize(
    ("figures", "past", "message"),
    [
        ((0.5, 0.492, 0.484), [("tensorrt", "NDCG@10")], "first past the tolerance at tensorrt"),
        ((0.5, 0.492, 0.507), [("tensorrt", "NDCG@10")], "between onnx and tensorrt"),
        (
            (0.5, 0.492, 0.484, 0.45),
            [("tensorrt", "NDCG@10"), ("nim", "NDCG@10")],
            "first past the tolerance at tensorrt",
        ),
        ((0.5, 0.492, 0.5), [], "No boundary changes quality"),
    ],
)
def test_words_and_exit_code_agree(
    tmp_path: Path, figures: tuple[float, ...], past: list[tuple[str, str]], message: str
) -> None:
    drift = drift_of(*figures)
    assert drift.past == past
    assert message in verdict(drift)
    if past:
        with pytest.raises(Drifted, match=message):
            require_no_drift(drift, tmp_path / "drift.md")
    else:
        require_no_drift(drift, tmp_path / "drift.md")


def test_tolerances_are_wider_at_the_top() -> None:
    assert [tolerance(k) for k in (1, 4, 5, 100)] == [0.03, 0.03, 0.01, 0.01]


def test_low_recall_is_said_in_words() -> None:
    metrics = measure({"q": {"a": 1}}, {"q": {"b": 1.0}}, [5])
    (sentence,) = recall_sentences({"retrieval": column(metrics)}, [5])
    assert "LOW" in sentence
    assert "tune the embedder" in sentence


def test_columns_of_two_evaluation_sets_do_not_meet(tmp_path: Path) -> None:
    metrics = measure({"q": {"a": 1}}, {"q": {"a": 1.0}}, [1])
    add_column(tmp_path, "base", column(metrics))
    other = Basis(eval_beir="another", candidates="b", prompt_template=None, max_length=8)
    with pytest.raises(BadInput, match="eval_beir"):
        add_column(tmp_path, "finetuned", column(metrics, other))


def test_every_column_stands_in_the_results_with_its_facts(finished: Path) -> None:
    results = read_results(finished / EVAL)
    assert list(results) == ["retrieval", "base", "finetuned", "onnx"]
    digest = read_collection(finished / "prep" / "eval_beir").digest
    assert {c.basis.eval_beir for c in results.values()} == {digest}
    assert set(results["base"].NDCG) == {"NDCG@1", "NDCG@5", "NDCG@10"}
    assert results["finetuned"].NDCG == results["onnx"].NDCG
    report = (finished / EVAL / "drift.md").read_text("utf-8")
    assert "| finetuned → onnx | +0.0000 |" in report


def test_a_remeasure_that_is_stopped_leaves_no_column_without_scores_and_goes_on(
    copied: Path,
    tiny_llama_checkpoint: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Another checkpoint, whose scores will differ: the base under its own name.
    arguments = ["eval", "-c", "c.toml", f"finetuned_model_path={tiny_llama_checkpoint}"]
    with monkeypatch.context() as patch:
        interrupt_after(patch, JournalWriter, "write", 3)  # the head, and two queries
        assert main(arguments) == 130
    assert list(read_results(copied / EVAL)) == ["retrieval", "base"]
    capsys.readouterr()
    assert main(["export", "-c", "c.toml"]) == 1  # and no KeyError
    assert "eval measured none as finetuned" in capsys.readouterr().err
    assert main(arguments) == 0
    assert "finetuned, queries: 2 of 6 were already done" in capsys.readouterr().err
    results = read_results(copied / EVAL)
    assert results["finetuned"].NDCG == results["base"].NDCG
    scores = [copied / EVAL / "scores" / f"{name}.jsonl" for name in ("base", "finetuned")]
    base, finetuned = (file.read_bytes().splitlines()[1:] for file in scores)
    assert base == finetuned


def test_eval_measures_an_artifact_that_it_is_given(
    copied: Path, rank_artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = "output/rerank/stage4_export/onnx"
    arguments = ["eval", "-c", "c.toml", "eval_base=false", f"onnx_model_path={artifact}"]
    wanted = read_results(copied / EVAL)["onnx"]
    assert main([*arguments, "--force"]) == 0
    results = read_results(copied / EVAL)
    assert list(results) == ["retrieval", "finetuned", "onnx"]
    assert results["onnx"].identity == wanted.identity
    assert results["onnx"].NDCG == wanted.NDCG
    capsys.readouterr()
    assert main([*arguments[:-1], f"trt_model_path={rank_artifact}"]) == 1  # which has no plan
    assert "tensorrt" in capsys.readouterr().err
    assert main([*arguments[:-1], "onnx_model_path=./nowhere"]) == 1
    assert "artifact for the column onnx" in capsys.readouterr().err


def test_a_column_without_its_scores_is_named(copied: Path) -> None:
    (copied / EVAL / "scores" / "onnx.jsonl").unlink()
    with pytest.raises(BadInput, match="measures the column onnx again"):
        open_session(copied / EVAL).write_drift()


def test_columns_at_other_depths_are_dropped(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["eval", "-c", "c.toml", "k_values=[1, 5, 10, 12]"]) == 0
    assert "onnx: measured on other data or settings" in capsys.readouterr().err
    assert "onnx" not in read_results(copied / EVAL)


def test_a_drifting_artifact_is_reported_after_the_results_are_written(
    copied: Path, rank_artifact: Path
) -> None:
    lines: list[str] = []
    session = open_session(copied / EVAL)
    scorer = ArtifactScorer(rank_artifact, TEMPLATE, LENGTH_TOKENS)  # of the base, not of ours
    drift = session.add("onnx", scorer, lines.append)
    scorer.close()
    assert read_results(copied / EVAL)["onnx"].identity == scorer.identity
    with pytest.raises(Drifted, match="first changes between finetuned and onnx"):
        require_no_drift(drift, copied / EVAL / "drift.md")
    assert "Worst queries, finetuned → onnx" in (copied / EVAL / "drift.md").read_text("utf-8")


def test_a_changed_evaluation_set_is_not_compared(copied: Path) -> None:
    with (copied / "prep/eval_beir/corpus.jsonl").open("a") as file:
        file.write(json.dumps({"_id": "new", "title": "", "text": "more"}) + "\n")
    with pytest.raises(BadInput, match="has changed since it was measured"):
        open_session(copied / EVAL)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("top_k=5", "wanted top_k at least as large"),
        ("prompt_template={query} {passage}", "was trained with"),
        ("retrieval_normalize=false", "omit both"),
        ("eval_data_path=./nowhere", "run `rerank prep`"),
        ("finetuned_model_path=./nowhere", "run `rerank finetune`"),
        ("query_prefix=Q:", "query_prefix"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    copied: Path, capsys: pytest.CaptureFixture[str], override: str, message: str
) -> None:
    assert main(["eval", "-c", "c.toml", override]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("corpus.jsonl", "", "is empty"),
        ("corpus.jsonl", "{broken\n", "line 1"),
        ("corpus.jsonl", '{"_id":"d1","text":"x"}\n{"_id":"d1","text":"y"}\n', "more than once"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\nq18\tnone\t1\n", "judges the passage"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\nnone\td1\t1\n", "judges the query"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\nq18 d1 1\n", "separated by tabs"),
        ("qrels/test.tsv", "query-id\tcorpus-id\tscore\nq18\td1\t0\n", "no passage as relevant"),
    ],
)
def test_a_broken_evaluation_set_is_named(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    folder = write_beir(tmp_path / "beir", range(18, 24))
    (folder / name).write_text(text)
    with pytest.raises(BadInput, match=message):
        read_collection(folder)
