"""How eval, run and compare end when the second model is worse, better or the same."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from recipe import compare, evaluate
from recipe.cli import main
from recipe.evaluation.results import read_results
from tests.recipe.models.material import TOPICS, write_beir

pytestmark = pytest.mark.usefixtures("undrawn")

EVAL = Path("output/rerank/stage3_eval")
WHOLE = ["-c", "c.toml", "eval.top_k=24"]  # every passage is a candidate
ASKED = range(18, 24)


class ByWord:
    """Ranks the answer first, or last for questions about the topics in `wrong`."""

    def __init__(self, source: str, wrong: range) -> None:
        self.identity = self.source = f"{source} {wrong}"
        self._wrong = {TOPICS[number] for number in wrong}

    def score(self, query: str, documents: list[str]) -> list[float]:
        topic = query.split()[-1]
        sign = -1.0 if topic in self._wrong else 1.0
        return [sign * (topic in text) - number / 100 for number, text in enumerate(documents)]

    def close(self) -> None:
        pass


Given = Callable[..., None]


@pytest.fixture
def models(copied: Path, monkeypatch: pytest.MonkeyPatch) -> Given:
    """Sets what the columns of eval, and the sources of compare, rank wrongly."""

    def give(**wrong: range) -> None:
        def by_column(_: object, name: str, source: str) -> ByWord:
            return ByWord(source, wrong.get(name, range(0)))

        def by_source(source: str, *_: object) -> ByWord:
            return ByWord(source, wrong.get(source, range(0)))

        monkeypatch.setattr(evaluate, "_scorer", by_column)
        monkeypatch.setattr(compare, "open_scorer", by_source)

    assert copied == Path.cwd()
    return give


def test_a_worse_model_ends_the_run_before_export(
    models: Given, capsys: pytest.CaptureFixture[str]
) -> None:
    models(finetuned=ASKED)
    run = ["run", *WHOLE, "--from", "eval", "--to", "export"]
    assert main(run) == 3
    output = capsys.readouterr().err
    assert "finetuned is worse than base over 6 queries: NDCG@10 -1.0000" in output
    assert "export" not in output
    report = (EVAL / "drift.md").read_text("utf-8")
    assert report.index("base → finetuned: NDCG@10 -1.0000") < report.index("| retrieval → base |")
    assert "Worst queries, base → finetuned:" in report
    gain = json.loads((EVAL / "eval_results.json").read_bytes())["finetuned"]["against"]["base"]
    assert (gain["NDCG@1"]["wins"], gain["NDCG@1"]["losses"]) == (0, 6)
    assert gain["NDCG@1"]["high"] < 0
    assert gain["NDCG@10"]["p"] == pytest.approx(2 / 2**6)
    assert main(["eval", *WHOLE, "allow_worse=true"]) == 0
    assert "warning: finetuned is worse than base" in capsys.readouterr().err


def test_a_better_model_and_the_same_model_end_well(
    models: Given, capsys: pytest.CaptureFixture[str]
) -> None:
    models(base=ASKED)
    assert main(["eval", *WHOLE]) == 0
    assert "over 6 queries: better." in capsys.readouterr().err
    assert "Best queries, base → finetuned:" in (EVAL / "drift.md").read_text("utf-8")
    models()
    assert main(["eval", *WHOLE, "--force"]) == 0
    assert "nothing can be said" in capsys.readouterr().err


def test_what_was_forgotten_is_found_on_a_second_set(
    models: Given, capsys: pytest.CaptureFixture[str]
) -> None:
    write_beir(Path("other"), range(8, 16))
    models(finetuned=range(8, 16))
    guarded = ["eval", *WHOLE, "guard_data_path=other"]
    assert main([*guarded, "eval_base=false"]) == 1
    assert "wanted both" in capsys.readouterr().err
    assert main(guarded) == 3
    output = capsys.readouterr().err
    assert "finetuned is worse than base over 8 queries" in output
    assert f"{EVAL}/guard/drift.md" in output
    assert list(read_results(EVAL / "guard")) == ["retrieval", "base", "finetuned"]


def test_compare_has_a_sign(models: Given, capsys: pytest.CaptureFixture[str]) -> None:
    models()
    assert main(["eval", *WHOLE]) == 0
    # Five queries may be chance, but they are past the tolerance.
    for wrong, code, said in (
        ({"B": ASKED}, 3, "B is worse than A over 6 queries"),
        ({"A": ASKED}, 0, ""),
        ({}, 0, ""),
        ({"B": ASKED[:5]}, 1, "B is below A past the tolerance (NDCG@1 -0."),
        ({"A": ASKED[:5]}, 0, ""),
    ):
        models(**wrong)
        capsys.readouterr()
        assert main(["compare", "-c", "c.toml", "A", "B"]) == code, wrong
        assert said in capsys.readouterr().err
        assert "| A → B |" in (EVAL / "compare" / "drift.md").read_text("utf-8")


def test_three_seeds_have_a_mean_and_a_spread(
    models: Given, capsys: pytest.CaptureFixture[str]
) -> None:
    models(base=ASKED)
    latest = "output/rerank/stage2_finetune/checkpoints/{}LATEST/model/consolidated"
    assert main(["eval", *WHOLE, "seeds=3"]) == 1
    assert "checkpoints/seeds/1/LATEST" in capsys.readouterr().err
    assert main(["eval", *WHOLE, "seeds=2", "finetuned_model_path=models/mine"]) == 1
    assert "wanted a path that ends in LATEST/model/consolidated" in capsys.readouterr().err
    for number in (1, 2):
        shutil.copytree(latest.format(""), latest.format(f"seeds/{number}/"))
    assert main(["eval", *WHOLE, "seeds=3"]) == 0
    found = (EVAL / "seeds.md").read_text("utf-8")
    assert "| NDCG@1 | 0.0000 | 1.0000 | 0.0000 | 1.0000 … 1.0000 | 3/3 |" in found
    assert "| base → mean of 3 seeds | difference | 95 % interval |" in found
    assert found.count("| base → finetuned") == 3
    assert "base → mean of 3 seeds: NDCG@10 +" in capsys.readouterr().err
    assert sorted(path.name for path in (EVAL / "scores").glob("finetuned*")) == [
        "finetuned-seed-1.jsonl",
        "finetuned-seed-2.jsonl",
        "finetuned.jsonl",
    ]
