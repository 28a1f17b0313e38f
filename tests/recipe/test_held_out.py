"""What is held out never reaches training: its questions, and its answers as negatives."""

from recipe.config import PrepConfig
from recipe.data.rows import Row, Source
from recipe.preparation.held_out import barred_negatives, hold_out
from recipe.preparation.split import Material, Question, convert, with_ids

CORPUS = {
    "a": "Wool is shorn in spring.",
    "b": "Rain falls on the hill.",
    "c": "Bread is baked at dawn.",
    "d": "RAIN falls  on the hill.",  # the same as b, written otherwise
    "e": "Stone is cut by hand.",
}


def material() -> Material:
    return Material(
        CORPUS,
        train=[
            Question("q1", "When is wool shorn?", ("a",), ("b", "d", "e"), (1,)),
            Question("q2", "where does  RAIN fall?", ("e",), (), (1,)),
            Question("q3", "What is baked?", ("c",), ("a",), (1,)),
        ],
        val=[
            Question("q4", "When is bread baked?", ("c",), ("b",), (1,)),
            Question("q5", "Where does rain fall?", ("a",), (), (1,)),
        ],
        test=[Question("q6", "Where does rain fall?", ("b",), (), (1,))],
    )


def test_no_held_out_question_and_no_answer_as_negative_is_left() -> None:
    lines: list[str] = []
    found = hold_out(material(), lines.append)
    assert [one.id for one in found.train] == ["q1", "q3"]
    assert [one.id for one in found.val] == ["q4"]
    assert [one.id for one in found.test] == ["q6"]
    assert found.train[0].negatives == ("e",)
    assert found.train[1].negatives == ("a",)  # its question of val is left out itself
    assert found.val[0].negatives == ()
    said = "\n".join(lines)
    assert "left out 1 question(s) of train that are held out" in said
    assert "left out 1 question(s) of val that are held out" in said
    assert "left out 2 negative(s) of train that answer a held-out question" in said
    assert "1 passage(s) answer both a question of training and a held-out one" in said


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
    # All of it is for training.
    found = convert(source, PrepConfig(train_input_file="x.json"), lambda _: None)
    assert [len(found.train), len(found.val), len(found.test)] == [6, 0, 0]


def test_ids_that_the_data_give_twice_are_not_given_twice() -> None:
    source = a_source(6)
    source.rows = [Row(row.question, row.positives, id="1") for row in source.rows]
    found = with_ids(convert(source, PrepConfig(), lambda _: None))
    ids = [one.id for one in (*found.train, *found.test)]
    assert len(set(ids)) == 6
    assert ids[0] == "1"
