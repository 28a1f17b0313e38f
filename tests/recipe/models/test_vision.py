"""The stage eval on models and passages with images."""

import base64
import json
from pathlib import Path

import pytest
from PIL import Image

from recipe.cli import main
from recipe.config import EvalConfig
from recipe.corpus_images import ImageText, RowImage
from recipe.data.files import Place
from recipe.evaluation import session
from recipe.evaluation.results import read_results
from recipe.evaluation.scorers import CheckpointScorer, _document, open_scorer
from rerank_client import nim
from rerank_client.question import question
from runtime.requests import Passage
from tests.recipe.models.material import TEMPLATE, write_beir, write_lines
from tests.tiny_vision import encoded, png

pytestmark = pytest.mark.usefixtures("undrawn")

LENGTH = 100
EVAL = Path("output/rerank/stage3_eval")


@pytest.fixture
def pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two questions about 24 passages, half of which have an image, some alone."""
    folder = write_beir(tmp_path / "beir", range(22, 24))
    rows = [json.loads(line) for line in (folder / "corpus.jsonl").read_text().splitlines()]
    for number, row in enumerate(rows[::2]):
        picture = png(60 + 9 * number, 90, number)
        (folder / f"{number}.png").write_bytes(picture)
        row["image"] = f"{number}.png" if number % 2 else base64.b64encode(picture).decode()
        if number % 3 == 0:
            del row["text"]
    write_lines(folder / "corpus.jsonl", rows)
    monkeypatch.chdir(tmp_path)
    return folder


def arguments(folder: Path, **settings: object) -> list[str]:
    given = {
        "eval_data_path": folder,
        "eval_base": "false",
        "k_values": "[1,5]",
        "top_k": 24,
        "max_length": LENGTH,
        **settings,
    }
    return ["eval", *(f"{key}={value}" for key, value in given.items())]


def test_checkpoint_and_artifact_rank_pages_alike(
    pages: Path,
    vision_checkpoint: Path,
    vision_artifact: Path,
    vision_embed_artifact: Path,
    rank_artifact: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    models = {
        "finetuned_model_path": vision_checkpoint,
        "onnx_model_path": vision_artifact,
        "retrieval_model": vision_embed_artifact,
    }
    assert main(arguments(pages, **models)) == 0
    results = read_results(EVAL)
    assert list(results) == ["retrieval", "finetuned", "onnx"]
    assert results["finetuned"].NDCG == results["onnx"].NDCG
    assert "| finetuned → onnx | +0.0000 |" in (EVAL / "drift.md").read_text("utf-8")
    scores = session.open_session(EVAL).scores("onnx")
    named = {name for found in scores.values() for name in found}
    assert "d0" in named  # an image alone was found, too
    assert main(["compare", str(vision_artifact), str(rank_artifact)]) == 1
    assert f"{rank_artifact} takes texts only" in capsys.readouterr().err


def test_a_checkpoint_scores_what_the_artifact_scores(
    vision_checkpoint: Path, vision_artifact: Path
) -> None:
    see_through = encoded(_see_through())
    passages = ["a text", Passage("both", png(200, 100)), Passage(image=see_through), "long " * 99]
    settings = EvalConfig()
    scorers = [
        open_scorer(str(source), TEMPLATE, LENGTH, settings)
        for source in (vision_checkpoint, vision_artifact)
    ]
    assert isinstance(scorers[0], CheckpointScorer)
    wanted, found = (scorer.score("which?", passages) for scorer in scorers)
    assert found == pytest.approx(wanted, abs=1e-4)
    for scorer in scorers:
        scorer.close()


def _see_through() -> Image.Image:
    image = Image.new("RGBA", (90, 60), (255, 0, 0, 0))
    image.paste((0, 0, 255, 128), (10, 10, 40, 40))
    return image


def test_texts_are_measured_as_ever(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    vision_checkpoint: Path,
    vision_artifact: Path,
    embed_artifact: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    folder = write_beir(tmp_path / "beir", range(22, 24))
    models = {
        "finetuned_model_path": vision_checkpoint,
        "onnx_model_path": vision_artifact,
        "retrieval_model": embed_artifact,
    }
    assert main(arguments(folder, **models)) == 0
    results = read_results(EVAL)
    assert results["finetuned"].NDCG == results["onnx"].NDCG


@pytest.mark.parametrize(
    ("setting", "fixture", "message"),
    [
        ("onnx_model_path", "rank_artifact", "takes texts only; wanted a model that takes images"),
        ("finetuned_model_path", "tiny_llama_checkpoint", "takes texts only"),
        ("retrieval_model", "embed_artifact", "passages that are an image alone"),
        ("max_length", 20, "raise max_length"),
        ("prompt_template", "{query} {passage}", "prompt_template"),
    ],
)
def test_what_takes_no_images_is_refused_before_it_costs(
    pages: Path,
    vision_checkpoint: Path,
    vision_embed_artifact: Path,
    setting: str,
    fixture: object,
    message: str,
    request: pytest.FixtureRequest,
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = setting.endswith(("path", "model"))
    value = request.getfixturevalue(str(fixture)) if model else fixture
    models = {
        "finetuned_model_path": vision_checkpoint,
        "retrieval_model": vision_embed_artifact,
        "k_values": "[1]",
        setting: value,
    }
    assert main(arguments(pages, **models)) == 1
    assert message in capsys.readouterr().err
    assert not (EVAL / "scores").exists()


def test_a_text_retriever_finds_pages_by_their_texts(
    pages: Path,
    vision_artifact: Path,
    embed_artifact: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    rows = [json.loads(line) for line in (pages / "corpus.jsonl").read_text().splitlines()]
    write_lines(pages / "corpus.jsonl", [row | {"title": "a page"} for row in rows])
    models = {"onnx_model_path": vision_artifact, "retrieval_model": embed_artifact}
    assert main(arguments(pages, eval_finetuned="false", **models)) == 0
    assert "found by their texts alone" in capsys.readouterr().err


def test_few_images_are_in_memory_at_a_time() -> None:
    def groups(*sizes: int | None) -> list[int]:
        documents = [
            "a text"
            if size is None
            else ImageText("", RowImage("", "", Place(0, "utf-8"), "", None, (1, 1), size, ""))
            for size in sizes
        ]
        return [len(group) for group in session._groups(documents)]

    some, most = 1 << 10, session._IMAGE_BYTES_AT_ONCE
    assert groups(*[None] * 99) == [99]
    assert groups(*[some] * 20) == [8, 8, 4]
    assert groups(some, None, None, *[some] * 8) == [10, 1]
    assert groups(most, most, None, some, some) == [1, 2, 2]
    assert groups(None, most // 2, most // 2, some) == [3, 1]


def test_an_endpoint_gets_images_as_a_nim_wants_them() -> None:
    picture = png(90, 60)
    passages = ["a text", Passage("both", picture), Passage(image=picture)]
    asked = question("q", map(_document, passages), None)
    body = nim("some-model", truncate="END").encode(asked)
    data_url = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    assert json.loads(body) == {
        "model": "some-model",
        "query": {"text": "q"},
        "passages": [
            {"text": "a text"},
            {"text": "both", "image": data_url},
            {"image": data_url},
        ],
        "truncate": "END",
    }


def test_a_model_with_images_is_not_trained(
    vision_checkpoint: Path, fresh: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["finetune", "-c", "c.toml", f"base_model={vision_checkpoint}"]) == 1
    assert "cannot be trained here" in capsys.readouterr().err
