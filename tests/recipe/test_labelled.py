"""Own data: every form is read alike, what is broken is named, and what does not fit is said."""

import json
import tracemalloc
from pathlib import Path

import pytest

from recipe.config import Columns
from recipe.data.reading import Reading, read
from recipe.data.rows import Broken, Source
from recipe.errors import BadConfig, BadInput
from tests.recipe import labelled_forms as forms
from tests.recipe.labelled_forms import FORMS, WITHOUT_NEGATIVES, N, answer, lines, other, question


def read_all(given: str, most: int | None = 0, **columns: str) -> Source:
    broken = Broken(most)
    encoding = columns.pop("encoding", None)
    source = read(given, Reading(Columns(**columns), encoding), broken, lambda _: None)
    broken.settle(given, lambda _: None)
    return source


def found_in(source: Source) -> dict[str, tuple[set[str], set[str]]]:
    """Question → the texts that answer it, and those that do not."""
    found: dict[str, tuple[set[str], set[str]]] = {}
    for row in source.rows:
        yes, no = found.setdefault(row.question, (set(), set()))
        yes |= {source.texts[name] for name in row.positives}
        no |= {source.texts[name] for name in row.negatives}
    return found


@pytest.mark.parametrize("form", FORMS)
def test_every_form_says_the_same(tmp_path: Path, form: str) -> None:
    write, _ = FORMS[form]
    found = found_in(read_all(write(tmp_path)))
    assert set(found) == {question(n) for n in N}
    for n in N:
        yes, no = found[question(n)]
        assert yes == {answer(n)}
        assert no >= (set() if form in WITHOUT_NEGATIVES else {other(n)})


def test_a_data_set_of_the_hub_is_read_at_its_commit_without_its_scripts(hub_cache: Path) -> None:
    given = forms.on_the_hub(hub_cache)
    found = found_in(read_all(given))
    assert [found[question(n)] for n in N] == [({answer(n)}, {other(n)}) for n in N]
    local = hub_cache / "datasets--org--mine" / "snapshots" / forms.COMMIT
    assert found_in(read_all(str(local / "FACTS"))) == found
    with pytest.raises(
        BadInput, match=r"no subset or folder 'NONE' in .* it has FACTS, FACTS_corpus"
    ):
        read_all(given.replace("FACTS", "NONE"))
    with pytest.raises(BadConfig, match="the revision pins the data"):
        read_all("hf://org/mine/FACTS")


def test_splits_are_those_of_the_data(tmp_path: Path) -> None:
    for write in (forms.beir, forms.split_files):
        folder = tmp_path / write.__name__
        folder.mkdir()
        source = read_all(write(folder))
        splits = {row.question: row.split for row in source.rows}
        wanted = ["train"] * 14 + ["val"] * 2 + ["test"] * 4
        assert [splits[question(n)] for n in N] == wanted


@pytest.mark.parametrize("encoding", ["cp1252", "utf-8-sig", "utf-16", "utf-32"])
def test_encodings(tmp_path: Path, encoding: str) -> None:
    rows = "question,answer\n" + "".join(f'{question(n)},"about {n}"\n' for n in N)
    file = tmp_path / "x.csv"
    file.write_bytes(rows.encode(encoding))
    named = {"encoding": "cp1252"} if encoding == "cp1252" else {}
    if named:
        with pytest.raises(
            BadInput, match=r"1 broken row.* line 21: question is not UTF-8; convert"
        ):
            read_all(str(file))
    assert list(found_in(read_all(str(file), **named))) == [question(n) for n in N]
    with pytest.raises(BadConfig, match="wanted one that Python knows"):
        read_all(str(file), encoding="klingon")


def test_columns_can_be_named(tmp_path: Path) -> None:
    rows = [{"Frage": question(n), "Treffer": answer(n), "context": other(n)} for n in N]
    file = str(lines(tmp_path / "x.jsonl", rows))
    with pytest.raises(
        BadInput, match=r"found the columns Frage, Treffer, context .*columns.query"
    ):
        read_all(file)
    found = found_in(read_all(file, query="Frage", positive="treffer", negative="context"))
    assert found[question(3)] == ({answer(3)}, {other(3)})
    with pytest.raises(BadConfig, match=r"no column 'Fragen' \(columns.query\)"):
        read_all(file, query="Fragen")
    both = [{"question": "a?", "answer": "b", "context": "c"}]
    with pytest.raises(
        BadInput, match=r"answer and context .* name one with columns.positive=answer"
    ):
        read_all(str(lines(tmp_path / "y.jsonl", both)))


def test_rows_of_one_file_may_have_different_keys(tmp_path: Path) -> None:
    rows = [
        {"query": "a?", "pos": ["b"]},
        {"query": "c?", "pos": ["d"], "neg": ["e"], "prompt": "p"},
        {"question": "f?", "answer": "g"},
    ]
    source = read_all(str(lines(tmp_path / "x.jsonl", rows)))
    assert found_in(source) == {"a?": ({"b"}, set()), "c?": ({"d"}, {"e"}), "f?": ({"g"}, set())}
    assert source.notes == ["x.jsonl: not read: prompt"]


@pytest.mark.parametrize(
    ("row", "why"),
    [
        ('{"query": "a?", "positive": ', "line 2: "),
        ('["query"]', "line 2: found str, wanted an object"),
        ('{"query": " ", "positive": "b"}', "line 2: query is blank"),
        ('{"positive": "b"}', "line 2: found the columns positive in .*, wanted one of a question"),
        ('{"query": "a?", "positive": 3}', "line 2: positive is a int, wanted a text"),
        ('{"query": "a?", "positive": []}', "line 2: found no passage in positive"),
        ('{"query": "a?", "positive": {"id": 4}}', "line 2: .*ids need the corpus beside them"),
        ('{"query": "a?", "positive": "b\\u0000"}', "line 2: positive is not text"),
        ('{"query": "a?", "positive": "\\ud800"}', "line 2: "),
    ],
)
def test_a_row_that_cannot_be_used_is_named_and_left_out_when_asked(
    tmp_path: Path, row: str, why: str
) -> None:
    good = json.dumps({"query": "a?", "positive": "b"})
    file = tmp_path / "x.jsonl"
    file.write_text("\n".join([good, row, good]))
    with pytest.raises(BadInput, match=rf"found 1 broken row\(s\) in .*{why}.*max_broken_rows=N"):
        read_all(str(file))
    assert len(read_all(str(file), most=1).rows) == 2


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        ("x.csv", "query,positive\na?,b\nc?\n", "line 3: found 1 cells, wanted 2"),
        ("x.csv", 'query,positive\na?,"b\n', "line 2: cannot be read"),
        ("x.json", '{"a": ', "cannot be read as JSON"),
        ("x.parquet", "no parquet", "cannot be read as parquet"),
        ("x.jsonl.gz", "not packed", "cannot be read"),
        ("x.txt", "Only a text.", "broken row"),
        ("x.jsonl", '{"query": "a?", "docs": ["b"], "labels": [1, 0]}', "2 label.* for 1 passage"),
        ("x.jsonl", '{"query": "a?", "doc": "b", "label": "good"}', "the label 'good'"),
        ("x.json", '{"corpus": {"path": "gone"}, "data": []}', "found no corpus in"),
    ],
)
def test_a_file_that_cannot_be_used_is_named(
    tmp_path: Path, name: str, content: str, why: str
) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(BadInput, match=why):
        read_all(str(tmp_path / name))


def test_a_path_with_nothing_says_what_would_be_read(tmp_path: Path) -> None:
    for given in (str(tmp_path / "gone"), ""):
        with pytest.raises(BadInput, match=r"found nothing at .* wanted a BEIR folder, a JSONL"):
            read_all(given)
    with pytest.raises(BadInput, match="found no data in"):
        read_all(str(tmp_path))


def test_reading_holds_what_is_new_not_the_file(tmp_path: Path) -> None:
    """200 answers, each 30 times: the memory is that of the answers and of the rows."""
    row = [
        {"query": f"question {n}?", "positive": f"{'a long answer ' * 120}{n % 200}"}
        for n in range(200)
    ]
    file = lines(tmp_path / "x.jsonl", row)
    file.write_bytes(file.read_bytes() * 30)
    size = file.stat().st_size
    tracemalloc.start()
    source = read_all(str(file))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(source.rows) == 200 * 30
    assert len(source.texts) == 200
    # A row holds its question and ids; every text is held once.
    assert peak < size / 2
