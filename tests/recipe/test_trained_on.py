"""What finetune trains on, and how a checkpoint is known to be measured with what it learned."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from recipe.cli import main
from recipe.data.rows import digest
from recipe.durable import write_json
from recipe.errors import BadInput
from recipe.evaluate import _warn_of_trained
from recipe.evaluation.labelled import open_collection
from recipe.training.groups import Group, read_groups
from recipe.training.trained_on import TRAINED_ON_FILE, trained_on
from tests.recipe import labelled_forms as forms
from tests.recipe.labelled_forms import N, answer, lines, other, question


def split_column(folder: Path) -> str:
    """The splits of the other forms, in a column."""
    rows = [
        {
            "query": question(n),
            "positive": answer(n),
            "negative": other(n),
            "split": "train" if n < 14 else "validation" if n < 16 else "test",
        }
        for n in N
    ]
    return str(lines(folder / "x.jsonl", rows))


def asked(groups: list[Group]) -> list[str]:
    return [group.query for group in groups]


@pytest.mark.parametrize("write", [forms.beir, forms.split_files, split_column])
def test_finetune_takes_each_split_for_what_it_is(
    tmp_path: Path, write: Callable[[Path], str]
) -> None:
    data = Path(write(tmp_path))
    wanted = [question(n) for n in N]
    assert asked(read_groups(data, 2)) == wanted[:14]
    assert asked(read_groups(data, 2, data)) == wanted[:14]
    assert asked(read_groups(data, 2, split="val")) == wanted[14:16]


def test_a_file_holds_out_its_own_questions_and_answers(tmp_path: Path) -> None:
    held = {"query": "held?", "positive": "the answer", "split": "test"}
    rows = [
        {"query": "a?", "positive": "b", "neg": ["The  Answer", "B", "c", "d"]},
        {"query": "A?", "positive": "c", "neg": ["e", "f"]},
        {"query": "HELD?", "positive": "another answer", "neg": ["e", "f"], "split": "train"},
        {"query": "g?", "positive": "h", "neg": ["another answer", "e", "f"], "split": ""},
        {**held, "neg": ["e"]},
    ]
    said: list[str] = []
    groups = read_groups(lines(tmp_path / "x.jsonl", rows), 2, log=said.append)
    assert [(one.query, *one.passages) for one in groups] == [
        ("a?", "b", "d"),
        ("A?", "c", "e"),
        ("g?", "h", "e"),
    ]
    assert said[0] == "left out 1 example(s) that ask a question that is held out"
    assert said[1] == "left out 2 negative(s) that answer a question that is held out"
    only = lines(tmp_path / "held-test.jsonl", [{**held, "neg": ["e"]}])
    with pytest.raises(BadInput, match=r"only rows of test in .* wanted some of train"):
        read_groups(only, 2)
    with pytest.raises(BadInput, match="wanted some of val, or without a split's name, for val_da"):
        read_groups(only, 2, split="val")


def test_a_checkpoint_knows_its_questions_when_its_data_were_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [
        {"query": f"q {n}?", "pos": [f"yes {n}"], "neg": [f"YES {(n + 1) % 40}", f"no {n}"]}
        for n in range(40)
    ]
    lines(tmp_path / "mine.jsonl", rows)
    prep = ["prep", "mining=none", "base_model=./none", "data=mine.jsonl", "output_dir=prep"]
    assert main(prep) == 0
    file = tmp_path / "prep" / "train_mined.automodel_unrolled.json"
    groups = read_groups(file, 2)
    learned = trained_on(groups)
    assert learned.questions == sorted({digest(group.query) for group in groups})

    def said() -> list[str]:
        found: list[str] = []
        _warn_of_trained("ck", open_collection(Path("prep/eval_beir")), found.append)
        return found

    assert ["cannot tell whether ck was trained on" in one for one in said()] == [True]
    write_json(tmp_path / "ck" / TRAINED_ON_FILE, learned)
    assert said() == []
    assert main([*prep, "seed=7", "--force"]) == 0
    new = (tmp_path / "prep" / "eval_beir" / "queries.jsonl").read_text().splitlines()
    both = {json.loads(one)["text"] for one in new} & set(asked(groups))
    questions, answers = said()
    assert f"trained on {len(both)} of {len(new)} questions of the evaluation" in questions
    assert "passage(s) that answer a question of the evaluation were negatives" in answers


def test_other_evaluation_data_are_held_out_by_prep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [
        {"query": f"q {n}?", "pos": [f"yes {n}"], "neg": [f"no {n}", f"Yes {(n + 1) % 20}"]}
        for n in range(20)
    ]
    lines(tmp_path / "mine.jsonl", rows)
    lines(tmp_path / "held.jsonl", [{"query": f"Q  {n}?", "pos": [f"YES {n}"]} for n in range(10)])
    prep = ["prep", "mining=none", "base_model=./none", "data=mine.jsonl", "output_dir=prep"]
    assert main(["data", "inspect", "mine.jsonl", "hold_out_path=held.jsonl"]) == 0
    assert "question(s) of train that are held out" in capsys.readouterr().out
    assert main([*prep, "hold_out_path=held.jsonl"]) == 0
    groups = read_groups(tmp_path / "prep" / "train_mined.automodel_unrolled.json", 2)
    assert asked(groups)
    assert not {f"q {n}?" for n in range(10)} & set(asked(groups))
    passages = {passage for group in groups for passage in group.passages[1:]}
    assert not {f"Yes {n}" for n in range(10)} & passages
    run = [
        "run",
        "-d",
        "--from",
        "prep",
        "--to",
        "eval",
        "prep.mining=none",
        "prep.data=mine.jsonl",
    ]
    run += ["prep.base_model=./none", "eval.eval_data_path=held.jsonl", "eval.k_values=[1]"]
    assert main(run) == 1
    assert main([*run, "prep.hold_out_path=held.jsonl"]) == 0


def test_what_guards_against_forgetting_is_held_out_beside_the_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [
        {"query": f"q {n}?", "pos": [f"yes {n}"], "neg": [f"no {n}", f"yes {(n + 1) % 20}"]}
        for n in range(20)
    ]
    lines(tmp_path / "mine.jsonl", rows)
    lines(tmp_path / "held.jsonl", [{"query": f"q {n}?", "pos": [f"yes {n}"]} for n in range(4)])
    lines(tmp_path / "guard.jsonl", [{"query": f"Q {n}?", "pos": [f"YES {n}"]} for n in (4, 5)])
    measured = ["eval.eval_data_path=held.jsonl", "eval.guard_data_path=guard.jsonl"]
    prep = ["mining=none", "base_model=./none", "data=mine.jsonl", "output_dir=./prep"]
    run = ["run", "-d", "--from", "prep", *(f"prep.{one}" for one in prep), *measured]
    run += ["finetune.train_data_path=./prep/train_mined.automodel_unrolled.json"]
    run += ["eval.k_values=[1]"]
    assert main([*run, "prep.hold_out_path=held.jsonl"]) == 1
    assert main([*run, "prep.hold_out_path=held.jsonl,guard.jsonl"]) == 0
    assert main(["prep", *prep, "hold_out_path=held.jsonl,guard.jsonl"]) == 0
    groups = read_groups(tmp_path / "prep" / "train_mined.automodel_unrolled.json", 2)
    passages = {passage for group in groups for passage in group.passages[1:]}
    assert len(asked(groups)) > 9
    assert not {f"q {n}?" for n in range(6)} & set(asked(groups))
    assert not {f"yes {n}" for n in range(6)} & passages
