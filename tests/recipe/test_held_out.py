"""What is held out never reaches training: its questions, and its answers as negatives."""

from pathlib import Path

import numpy as np

from recipe.config import PrepConfig
from recipe.data.rows import Row, Source
from recipe.preparation.held_out import barred_negatives, hold_out
from recipe.preparation.mining import Miner
from recipe.preparation.split import Material, Question, convert, with_ids
from tests.recipe.stored import stored

CORPUS = {
    "a": "Wool is shorn in spring.",
    "b": "Rain falls on the hill.",
    "c": "Bread is baked at dawn.",
    "d": "RAIN falls  on the hill.",  # the same as b, written otherwise
    "e": "Rain falls on stone.",
    "f": "Copper is red.",
}


def material() -> Material:
    return Material(
        CORPUS,
        train=[
            Question("q1", "When is wool shorn?", ("a",), ("b", "d", "e", "f"), (1,)),
            Question("q2", "where does  RAIN fall?", ("e",), (), (1,)),
            Question("q3", "What is baked?", ("c",), ("a", "f"), (1,)),
        ],
        val=[
            Question("q4", "When is bread baked?", ("c",), ("b",), (1,)),
            Question("q5", "Where does rain fall?", ("a",), (), (1,)),
        ],
        test=[Question("q6", "Where does rain fall?", ("b",), (), (1,), {}, frozenset("d"))],
    )


def test_no_held_out_question_and_no_answer_as_negative_is_left() -> None:
    lines: list[str] = []
    found = hold_out(material(), lines.append)
    assert [one.id for one in found.train] == ["q1", "q3"]
    assert [one.id for one in found.val] == ["q4"]
    assert [one.id for one in found.test] == ["q6"]
    # What answers a question that was left out (e and a) answers the one that is measured.
    assert found.train[0].negatives == ("f",)
    assert found.train[1].negatives == ("f",)
    assert found.val[0].negatives == ()
    assert barred_negatives(found)["train"] == frozenset("abcde")
    said = "\n".join(lines)
    assert "left out 1 question(s) of train that are held out" in said
    assert "left out 1 question(s) of val that are held out" in said
    assert "left out 4 negative(s) of train that answer a held-out question" in said
    assert "2 passage(s) answer both a question of training and a held-out one" in said


def test_the_miner_is_told_what_it_may_not_take() -> None:
    barred = barred_negatives(material())
    assert barred == {
        "train": frozenset("abcd"),  # a and c answer validation questions
        "val": frozenset("bd"),
        "test": frozenset(),
    }


def a_source(rows: int) -> Source:
    source = Source("rows")
    for number in range(rows):
        one = source.passage(f"The answer to number {number}.")
        source.rows.append(Row(f"What about number {number}?", (one,), id=f"id{number}"))
    return source


def test_equal_questions_are_in_one_split_and_joined() -> None:
    source = a_source(10)
    more = source.passage("Another answer.")
    source.rows += [Row(f"what about  NUMBER {n}?", (more,)) for n in range(10)]
    found = with_ids(convert(source, PrepConfig(), lambda _: None))
    assert len(found.train) == 8
    assert len(found.test) == 2
    for one in (*found.train, *found.test):
        assert len(one.positives) == 2
        assert one.id.startswith("id")


def test_splits_depend_on_the_questions_and_the_seed_not_on_their_order() -> None:
    source = a_source(20)
    first = convert(source, PrepConfig(), lambda _: None)
    source.rows.reverse()
    again = convert(source, PrepConfig(), lambda _: None)
    assert {one.id for one in first.test} == {one.id for one in again.test}
    assert len(first.test) == 4


def test_splits_that_the_data_name_are_kept() -> None:
    source = a_source(10)
    names = ["train"] * 6 + ["val"] * 2 + ["test"] * 2
    source.rows = [
        Row(row.question, row.positives, id=row.id, split=split)
        for row, split in zip(source.rows, names, strict=True)
    ]
    found = convert(source, PrepConfig(), lambda _: None)
    assert [len(found.train), len(found.val), len(found.test)] == [6, 2, 2]
    # Named for training only: the evaluation set is cut from it.
    source.rows = source.rows[:6]
    found = convert(source, PrepConfig(), lambda _: None)
    assert [len(found.train), len(found.val), len(found.test)] == [5, 0, 1]
    # All of it is for training, whatever it is named.
    source.rows = [
        Row(row.question, row.positives, id=row.id, split=split)
        for row, split in zip(source.rows, ["train"] * 4 + ["test"] * 2, strict=True)
    ]
    lines: list[str] = []
    found = convert(source, PrepConfig(train_input_file="x.json"), lines.append)
    assert [len(found.train), len(found.val), len(found.test)] == [6, 0, 0]
    assert "2 row(s) that the data name test are trained on" in lines[0]


def test_answers_beyond_max_pos_docs_are_measured_and_never_negatives(tmp_path: Path) -> None:
    """Twelve answers to each question, with grades, and max_pos_docs = 5."""
    source = Source("rows")
    for split in ("train", "val", "test"):
        answers = tuple(source.passage(f"{split} answer {n}.") for n in range(12))
        grades = tuple(1 + n % 3 for n in range(12))
        source.rows.append(Row(f"What about {split}?", answers, (), grades, split=split))
    every = {row.split: set(row.positives) for row in source.rows}
    spare = [source.passage(f"Nobody asks about {n}.") for n in range(3)]
    found = with_ids(hold_out(convert(source, PrepConfig(), lambda _: None), lambda _: None))
    (train,), (val,), (test,) = found.train, found.val, found.test
    assert set(test.positives) == every["test"]
    assert sorted(test.grades) == [1] * 4 + [2] * 4 + [3] * 4
    assert len(train.positives) == len(val.positives) == 5
    assert train.grades == (3, 3, 3, 3, 2)  # the best ones
    barred = barred_negatives(found)
    assert barred["train"] == every["test"] | every["val"]
    assert barred["val"] == every["test"]
    names = list(found.corpus)
    vectors = stored(tmp_path, np.ones((len(names), 1), np.float32))
    miner = Miner(names, vectors, 30, 1.0, barred)
    (mined,) = miner(("train", [train], np.ones((1, 1), np.float32)))
    assert [name for name, _ in mined.negatives] == spare
    (mined,) = miner(("val", [val], np.ones((1, 1), np.float32)))
    assert {name for name, _ in mined.negatives} == {*spare, *every["train"]}


def test_a_question_is_not_trained_against_its_answer_written_otherwise() -> None:
    source = a_source(6)
    shouted = source.passage("THE ANSWER to  number 0.")
    spare = source.passage("Nobody asks.")
    names = ["train"] * 3 + ["test"] * 3
    source.rows = [
        Row(row.question, row.positives, (shouted, spare), id=row.id, split=split)
        for row, split in zip(source.rows, names, strict=True)
    ]
    found = convert(source, PrepConfig(), lambda _: None)
    assert [one.negatives for one in found.train] == [(spare,), *[(shouted, spare)] * 2]
    # The same passage is an answer in both, whatever its case: it is counted.
    source.rows[3] = Row("What is shouted?", (shouted,), split="test")
    lines: list[str] = []
    held = hold_out(convert(source, PrepConfig(), lambda _: None), lines.append)
    assert "1 passage(s) answer both a question of training" in "\n".join(lines)
    assert all(shouted not in one.negatives for one in held.train)


def test_ids_that_the_data_give_twice_are_not_given_twice() -> None:
    source = a_source(6)
    source.rows = [Row(row.question, row.positives, id="1") for row in source.rows]
    found = with_ids(convert(source, PrepConfig(), lambda _: None))
    ids = [one.id for one in (*found.train, *found.test)]
    assert len(set(ids)) == 6
    assert ids[0] == "1"
    # A table of judgements cannot hold these.
    source.rows = [Row(row.question, row.positives, id="1\t2\n") for row in source.rows]
    found = with_ids(convert(source, PrepConfig(), lambda _: None))
    assert all(one.id.startswith("q_") for one in found.train)
