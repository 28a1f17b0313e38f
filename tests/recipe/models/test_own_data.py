"""Own data in every form go through prep, finetune and eval."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from recipe.cli import main
from recipe.data.rows import normal
from recipe.evaluation.results import read_results
from tests.recipe import labelled_forms as forms
from tests.recipe.labelled_forms import FORMS, WITHOUT_NEGATIVES, N, answer, other, question

pytestmark = pytest.mark.usefixtures("undrawn")

FOLDER = Path("output/rerank")
PREP = FOLDER / "stage1_prep"
FAST = "spreadsheet"  # test_labelled.py reads every form
SETTINGS = [
    *("prep.mining_batch_size=8", "prep.hard_negatives_to_mine=2", "prep.hard_neg_margin=1"),
    *("prep.query_max_length=64", "prep.passage_max_length=64"),
    *("finetune.train_data_path=./output/rerank/stage1_prep/train_mined.automodel_unrolled.json",),
    *("finetune.num_epochs=1", "finetune.global_batch_size=8", "finetune.lr_warmup_steps=0"),
    *("finetune.val_data_path=null", "eval.k_values=[1,5]", "eval.top_k=5"),
    *("eval.eval_data_path=./output/rerank/stage1_prep/eval_beir",),
]


@pytest.fixture
def whole_run(fresh: Path, embed_artifact: Path) -> Callable[[str], None]:
    """prep, finetune and eval of own data, two steps, in the working directory of the test."""

    def run(data: str) -> None:
        own = [f"prep.data={data}", f"prep.base_model={embed_artifact}", *SETTINGS]
        assert main(["run", "-c", "c.toml", "--from", "prep", "--to", "eval", *own]) == 0

    return run


def assert_measured_and_not_trained_on() -> None:
    trained = json.loads((PREP / "train_mined.automodel_unrolled.json").read_text())["data"]
    lines = (PREP / "eval_beir" / "queries.jsonl").read_text().splitlines()
    asked = {normal(json.loads(line)["text"]) for line in lines}
    measured = {normal(question(n)): n for n in N if normal(question(n)) in asked}
    assert len(measured) == len(asked) == 4
    assert not asked & {normal(one["question"]) for one in trained}
    corpus = (PREP / "eval_beir" / "corpus.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in corpus]
    texts = {row["_id"]: row["text"] for row in rows}
    answers = {answer(n) for n in measured.values()}
    for one in trained:
        assert len(one["neg_doc"]) >= 2
        assert not answers & {texts[passage["id"]] for passage in one["neg_doc"]}
    columns = read_results(FOLDER / "stage3_eval")
    assert list(columns) == ["retrieval", "base", "finetuned"]


@pytest.mark.parametrize(
    "form", [one if one == FAST else pytest.param(one, marks=pytest.mark.heavy) for one in FORMS]
)
def test_a_form_is_trained_on_and_measured(
    form: str, whole_run: Callable[[str], None], tmp_path: Path
) -> None:
    (tmp_path / "own").mkdir()
    write, _ = FORMS[form]
    whole_run(write(tmp_path / "own"))
    assert_measured_and_not_trained_on()
    if form not in WITHOUT_NEGATIVES:
        first = json.loads((PREP / "train_mined.automodel.json").read_text())["data"][0]
        texts = (PREP / "eval_beir" / "corpus.jsonl").read_text()
        given = first["neg_doc"][0]["id"]
        assert any(other(n) in texts for n in N)
        assert given in texts


@pytest.mark.heavy
def test_a_data_set_of_the_hub_is_trained_on_at_its_commit(
    whole_run: Callable[[str], None], hub_cache: Path
) -> None:
    data = forms.on_the_hub(hub_cache)
    whole_run(data)
    assert_measured_and_not_trained_on()
    done = json.loads((PREP / "done.json").read_text())
    assert done["inputs"][data] == forms.COMMIT


def test_given_negatives_need_no_embedder_and_other_forms_are_evaluated(
    fresh: Path, tmp_path: Path
) -> None:
    (tmp_path / "own").mkdir()
    data = forms.flag(tmp_path / "own")
    assert main(["prep", "base_model=./none", "mining=none", f"data={data}"]) == 0
    data_of = json.loads((PREP / "train_mined.automodel.json").read_text())["data"]
    assert len(data_of) == 16
    assert all(len(one["neg_doc"]) == 1 and "score" not in one["neg_doc"][0] for one in data_of)
    unrolled = str(PREP / "train_mined.automodel_unrolled.json")
    few = ["finetune", "-c", "c.toml", "val_data_path=null"]
    assert main([*few, f"train_data_path={unrolled}"]) == 1  # one negative, two are wanted
    # The file itself, without prep; and the questions of another file to measure.
    direct = [f"train_data_path={data}", "train_n_passages=2", "num_epochs=1"]
    assert main([*few, *direct, "global_batch_size=10", "local_batch_size=10"]) == 0
    measured = [f"eval_data_path={forms.spreadsheet(tmp_path / 'own')}", "eval_base=false"]
    assert main(["eval", "-c", "c.toml", *measured, "k_values=[1]", "top_k=2"]) == 0
    assert len(read_results(FOLDER / "stage3_eval")) == 2
