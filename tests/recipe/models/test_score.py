"""rerank score and rerank compare."""

import json
import threading
from contextlib import closing
from pathlib import Path

import pytest

from recipe.cli import main
from recipe.score import CHUNK_LINES
from runtime.opening import open_ranker
from tests.recipe.killing import killed_after
from tests.recipe.models.material import passage, question, write_lines

pytestmark = pytest.mark.usefixtures("undrawn")


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    rows = [
        {"id": n, "query": question(n % 24), "passages": [passage((n + k) % 24) for k in range(3)]}
        for n in range(80)
    ]
    write_lines(tmp_path / "in.jsonl", rows)
    return tmp_path / "in.jsonl"


def test_scores_are_those_of_the_ranker(asked: Path, rank_artifact: Path) -> None:
    out = asked.with_name("out.jsonl")
    before = set(threading.enumerate())
    assert main(["score", str(asked), str(out), "--rank", str(rank_artifact)]) == 0
    assert before.issuperset(threading.enumerate())  # its rankers are closed
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["id"] for row in rows] == list(range(80))
    with closing(open_ranker(rank_artifact)) as ranker:
        wanted = ranker.rank(question(5), [passage(5), passage(6), passage(7)]).logits
    assert rows[5]["scores"] == wanted.tolist()
    assert sorted(path.name for path in asked.parent.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_a_killed_run_goes_on_to_the_same_file(
    asked: Path, rank_artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, broken_off = asked.with_name("whole.jsonl"), asked.with_name("again.jsonl")
    rank = ["--rank", str(rank_artifact)]
    assert main(["score", str(asked), str(whole), *rank]) == 0
    command = ["score", str(asked), str(broken_off), *rank]
    killed_after("recipe.durable:JournalWriter.write", 1, *command, folder=asked.parent)
    assert not broken_off.exists()
    assert main(command) == 0
    assert f"lines: {CHUNK_LINES} of 80 were done before" in capsys.readouterr().err
    assert broken_off.read_bytes() == whole.read_bytes()


def test_broken_lines_are_numbered_and_left_out_only_when_asked(
    asked: Path, rank_artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = asked.read_text().splitlines()
    lines[3], lines[7] = "{broken", '{"query": "  ", "passages": ["x"]}'
    asked.write_text("\n".join(lines) + "\n")
    command = ["score", str(asked), str(asked.with_name("out.jsonl")), "--rank", str(rank_artifact)]
    assert main(command) == 1
    assert "2 line(s)" in (said := capsys.readouterr().err)
    assert "(4, 8)" in said
    assert main([*command, "--skip-broken"]) == 0
    assert len(asked.with_name("out.jsonl").read_text().splitlines()) == 78


def test_a_finished_file_is_not_replaced(
    asked: Path, rank_artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = asked.with_name("out.jsonl")
    out.write_text("mine\n")
    assert main(["score", str(asked), str(out), "--rank", str(rank_artifact)]) == 1
    assert "--force" in capsys.readouterr().err
    assert out.read_text() == "mine\n"


def test_the_input_is_never_the_output(
    asked: Path, rank_artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = asked.read_bytes()
    command = ["score", str(asked), str(asked), "--rank", str(rank_artifact), "--force"]
    assert main(command) == 1
    assert "is the input itself" in capsys.readouterr().err
    assert asked.read_bytes() == before


def test_compare_finds_no_drift_in_an_export_and_drift_in_another_model(
    copied: Path, rank_artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = "output/rerank/stage2_finetune/checkpoints/LATEST/model/consolidated"
    artifact = "output/rerank/stage4_export/onnx"
    assert main(["compare", checkpoint, artifact, "-c", "c.toml"]) == 0
    assert "| A → B | +0.0000 |" in capsys.readouterr().out
    assert main(["compare", artifact, str(rank_artifact), "-c", "c.toml"]) == 1
    assert "B ranks otherwise than A" in capsys.readouterr().err


def test_compare_says_what_an_endpoint_that_is_away_is(
    copied: Path, refusing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = "output/rerank/stage4_export/onnx"
    assert main(["compare", artifact, refusing, "-c", "c.toml"]) == 1
    assert "the endpoint gave no ranking" in capsys.readouterr().err
