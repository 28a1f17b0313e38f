"""The logic of check-real, on the tiny checkpoint: it passes with its own facts, not the NIM's."""

import json
import re
import shutil
from contextlib import closing
from pathlib import Path

import pytest

from checks import exporting, real
from checks.real import (
    EMBED_NIM,
    NIM,
    Expectations,
    VectorExpectations,
    check_texts,
    check_tokens,
    check_vision_texts,
    main,
)
from exporter.pipeline import ExportArgs
from runtime.opening import open_embedder, open_ranker
from runtime.text import load_tokenizer
from tests.conftest import Exported
from tests.tiny_checkpoints import write_sentence_transformers


@pytest.fixture
def own_facts(rank_artifact: Path) -> Expectations:
    """The tiny tokenizer's values instead of the NIM's 33006, 58 and 464."""
    tokenizer = load_tokenizer(rank_artifact / "tokenizer" / "tokenizer.json")
    text = "question:Thủ đô của Việt Nam là thành phố nào? \n \n passage:"
    passage = "Synthetic candidate {}: deterministic reranking performance fixture."
    counts = [len(tokenizer.encode(text + passage.format(i)).ids) for i in range(16)]
    (separator,) = tokenizer.encode(" \n \n", add_special_tokens=False).ids
    return Expectations(separator, {2: sum(counts[:2]), 16: sum(counts)})


@pytest.fixture
def stand_in(exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The check works in a folder of the test, on artifacts that all tests share."""

    def copy(checkpoint: str, out: Path, args: ExportArgs) -> None:
        shutil.copytree(exported(checkpoint, args), out, dirs_exist_ok=True)

    monkeypatch.setattr(real, "WORK", tmp_path / "work")
    monkeypatch.setattr(exporting, "export", copy)


@pytest.fixture
def beir(tmp_path: Path) -> Path:
    """Three texts and one judged query in BEIR's layout."""
    texts = {
        "weather": "The weather is nice today",
        "learning": "Machine learning is a subset of AI",
        "deep": "Deep learning uses neural networks",
    }
    folder = tmp_path / "beir"
    (folder / "qrels").mkdir(parents=True)
    corpus = [json.dumps({"_id": name, "title": "", "text": text}) for name, text in texts.items()]
    (folder / "corpus.jsonl").write_text("\n".join(corpus))
    query = {"_id": "q", "text": "What is machine learning?"}
    (folder / "queries.jsonl").write_text(json.dumps(query))
    (folder / "qrels" / "test.tsv").write_text("query-id\tcorpus-id\tscore\nq\tlearning\t1\n")
    return folder


def test_own_facts_pass_and_the_nims_fail(rank_artifact: Path, own_facts: Expectations) -> None:
    ranker = open_ranker(rank_artifact)
    try:
        assert all(f.passed for f in check_tokens(ranker, rank_artifact, own_facts))
        assert not any(f.passed for f in check_tokens(ranker, rank_artifact, NIM))
    finally:
        ranker.close()


@pytest.mark.usefixtures("stand_in")
def test_a_whole_run(
    tiny_llama_checkpoint: Path,
    own_facts: Expectations,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [str(tiny_llama_checkpoint), "--beir", str(tmp_path / "none")]
    assert main(arguments, own_facts) == 0
    output = capsys.readouterr().out
    assert "FAILED" not in output
    assert "not measured" in output
    assert main(arguments) == 1
    assert "FAILED, wanted 33006" in capsys.readouterr().out


@pytest.fixture
def own_vector_facts(embed_artifact: Path) -> VectorExpectations:
    """The tiny embedder's values instead of the NIM's 2048 components, 17 and 272 tokens."""
    tokenizer = load_tokenizer(embed_artifact / "tokenizer" / "tokenizer.json")
    text = "passage: Synthetic passage {}: service availability is measured without company data."
    counts = [len(tokenizer.encode(text.format(i)).ids) for i in range(16)]
    return VectorExpectations(64, {1: counts[0], 16: sum(counts)})


def test_an_embedders_own_facts_pass_and_the_nims_fail(
    embed_artifact: Path, own_vector_facts: VectorExpectations
) -> None:
    embedder = open_embedder(embed_artifact)
    try:
        assert all(f.passed for f in check_texts(embedder, own_vector_facts))
        assert not any(f.passed for f in check_texts(embedder, EMBED_NIM))
    finally:
        embedder.close()


@pytest.mark.usefixtures("stand_in")
def test_a_whole_run_of_an_embedder(
    tiny_embed_checkpoint: Path,
    own_vector_facts: VectorExpectations,
    beir: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = [str(tiny_embed_checkpoint), "--beir", str(beir)]
    assert main(arguments, vectors_expected=own_vector_facts) == 0
    output = capsys.readouterr().out
    assert "FAILED" not in output
    assert "(1 queries of" in output
    assert main(arguments) == 1
    assert "FAILED, wanted 2048" in capsys.readouterr().out


@pytest.mark.usefixtures("stand_in")
def test_an_embedder_without_known_answers_is_still_exported(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = write_sentence_transformers(tmp_path / "symmetric")
    assert main([str(checkpoint), "--beir", str(tmp_path / "none")]) == 0
    assert "no reference values for profile sentence-transformers" in capsys.readouterr().out


@pytest.mark.heavy
@pytest.mark.usefixtures("stand_in")
def test_the_embedded_checkpoint_from_export_to_ndcg(
    beir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Every step on trained weights; only the NIM's own tokens cannot be found in them."""
    checkpoint = Path(__file__).parents[2] / "embedded" / "rank"
    embedded = [str(checkpoint), "--profile", "tiny-rerank-v1", "--max-tokens", "512"]
    assert main([*embedded, "--beir", str(beir)]) == 1
    output = capsys.readouterr().out
    assert "FAILED, wanted 33006" in output
    assert re.search(r"^nDCG@10 +1\.0000", output, re.MULTILINE)


def test_an_export_that_fails_is_a_message() -> None:
    with pytest.raises(SystemExit, match=r"^check-real: found no directory"):
        main(["/no/such/checkpoint"])


@pytest.mark.heavy
def test_the_vision_reranker_s_card_is_compared(vision_artifact: Path) -> None:
    with closing(open_ranker(vision_artifact)) as ranker:
        own = [finding.found for finding in check_vision_texts(ranker)]
        near = [float(str(logit)) + 0.05 for logit in own]
        assert all(finding.passed for finding in check_vision_texts(ranker, near))
        assert not any(finding.passed for finding in check_vision_texts(ranker))
