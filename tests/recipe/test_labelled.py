"""Own data: every form is read alike, what is broken is named, and what does not fit is said."""

import json
import tracemalloc
from pathlib import Path

import pytest

from recipe.config import Columns
from recipe.data import files
from recipe.data.reading import Reading, parts, read
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


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("data.train.jsonl", "train"),
        ("scifact-test.jsonl", "test"),
        ("heldout.jsonl", "test"),
        ("held_out.v2.jsonl", "test"),
        ("holdout.jsonl", "test"),
        ("testing.jsonl", "test"),
        ("my.testset.jsonl", "test"),
        ("evalset.jsonl", "test"),
        ("training/part-0.jsonl", "train"),
        ("train_test_split/dev.jsonl", "val"),
        ("train_test.jsonl", None),  # says both
        ("latest.jsonl", None),
    ],
)
def test_a_split_is_any_word_of_a_name(tmp_path: Path, name: str, split: str | None) -> None:
    lines(tmp_path / name, [{"query": "a?", "positive": "b"}])
    lines(tmp_path / "other-train.jsonl", [{"query": "c?", "positive": "d"}])
    source = read_all(str(tmp_path))
    assert {row.question: row.split for row in source.rows} == {"a?": split, "c?": "train"}
    said = [f"of 2 files, the names of 1 say no split (train, val or test): {name}"]
    assert source.notes == ([] if split else said)


def test_a_split_that_is_not_known_is_refused(tmp_path: Path) -> None:
    rows = [{"query": f"{n}?", "positive": "b", "split": n} for n in ("train[:80%]", "", None)]
    file = lines(tmp_path / "x.jsonl", [*rows, {"query": "d?", "positive": "b", "split": "gold"}])
    with pytest.raises(BadInput, match="line 4: found the split 'gold', wanted train, val"):
        read_all(str(file))
    assert [row.split for row in read_all(str(file), most=1).rows] == ["train", None, None]


@pytest.mark.parametrize(
    "said",
    [
        "\n  - split: test\n    path: part2.jsonl\n  - split: train\n    path: part*",
        "\n    test: part2.jsonl\n    train: [part1.jsonl]",
    ],
)
def test_a_card_says_the_splits_of_its_files(tmp_path: Path, said: str) -> None:
    for n in (1, 2):
        lines(tmp_path / f"part{n}.jsonl", [{"query": f"{n}?", "positive": "b"}])
    card = f"---\nconfigs:\n- config_name: mine\n  data_files:{said}\n---\n"
    (tmp_path / "README.md").write_text(card)
    rows = read_all(str(tmp_path / "mine")).rows
    assert {row.question: row.split for row in rows} == {"1?": "train", "2?": "test"}


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
    if not named:  # a mark is no text, also where the encoding is named
        spelled = {"utf-8-sig": "UTF8", "utf-16": "utf-16-le", "utf-32": "utf-32-le"}[encoding]
        assert list(found_in(read_all(str(file), encoding=spelled))) == [question(n) for n in N]


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
        ('{"query": "a?", "positive": "[\'b\', \'c\']"}', "line 2: found a list as Python prints"),
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
        ("x.csv", 'query,positive\na?,"b\nc?,d\n', "1 broken row.*line 2: opens a quote that"),
        ("x.csv", "", "found no rows in x.csv"),
        ("x.csv", "query,positive\n", "found no rows in x.csv"),
        ("x.jsonl", "\n", "found no rows in x.jsonl"),
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


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.csv", "\n  \nquery,positive\na?,b\n\nc?,d\n"),  # blank lines first
        ("x.csv", "query,positive\ra?,b\rc?,d\r"),  # as old programs of the Mac write
        ("x.json", '{"query": "a?", "positive": "b"}\n\n{"query": "c?", "positive": "d"}'),
        ("x.json", '[{"query": "a?", "positive": "b"}, {"query": "c?", "positive": "d"}]'),
    ],
)
def test_what_programs_write_is_read(
    tmp_path: Path, name: str, content: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / name).write_bytes(content.encode())
    found = {"a?": ({"b"}, set()), "c?": ({"d"}, set())}
    assert found_in(read_all(str(tmp_path / name))) == found
    if content.startswith("["):  # a list in one line is no row, and may be long
        monkeypatch.setattr(files, "_LONGEST", 10)
        assert found_in(read_all(str(tmp_path / name))) == found


def test_a_line_of_a_table_that_cannot_be_parsed_is_one_row(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_text('query,positive\na?,"b" c\nd?,"e\nf"g\nh?,i\n')
    with pytest.raises(BadInput, match=r"3 broken row.*line 2: .*line 3: .*line 4: .*max_broken_r"):
        read_all(str(file))
    assert found_in(read_all(str(file), most=3)) == {"h?": ({"i"}, set())}


def test_a_quote_that_never_closes_costs_its_own_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "x.csv"
    rows = "".join(f'q{n}?,"a ""good""\nanswer"\n' for n in range(20))
    file.write_text(f'query,positive\nb?,c\n{rows}d?,"e\nf?,g\nh?,"i\nj?,k\n')
    why = r"2 broken row.*x.csv, line 43: .*line 45: opens a quote that never closes"
    for longest in (files._LONGEST, 15):  # the end of the file, and the longest cell
        monkeypatch.setattr(files, "_LONGEST", longest)
        with pytest.raises(BadInput, match=why):
            read_all(str(file), most=1)
        asked = [row.question for row in read_all(str(file), most=2).rows]
        assert asked == ["b?", *(f"q{n}?" for n in range(20)), "f?", "j?"]


def test_triples_of_ids_are_checked_line_by_line(tmp_path: Path) -> None:
    forms.id_triples(tmp_path)
    file = tmp_path / "qidpidtriples.train.full.2.tsv"
    with file.open("a") as held:
        held.write("7\t1\t99\n8\t9\n70\t1\t2\n")
    with (tmp_path / "queries.dev.tsv").open("a") as held:
        held.write("7\tAnother text\nalone\n")
    why = (
        r"5 broken row.*queries.dev.tsv, line 2: found 'alone', wanted an id, a tab.*queries.tsv, "
        r"line 8: gives the id '7' to another text.*line 21: names the passage '99', which "
        r"is not in the collection.*line 22: found 2 cells.*line 23: names the question '70'"
    )
    for given in (file, tmp_path):
        with pytest.raises(BadInput, match=why):
            read_all(str(given))
    source = read_all(str(tmp_path), most=5)
    assert source.form == "MS MARCO's triples of ids"
    assert len(source.texts) == 2 * len(N)  # what no triple names is there to be mined
    assert {(row.id, row.split) for row in source.rows} == {(str(n), "train") for n in N}
    assert source.rows[7].question == "Another text"
    assert parts(str(file)) == [
        file,
        *(tmp_path / name for name in ("collection.tsv", "queries.dev.tsv", "queries.tsv")),
    ]


def test_a_run_beside_triples_of_ids_is_not_read_as_such(tmp_path: Path) -> None:
    forms.id_triples(tmp_path)
    alone = read_all(str(tmp_path))
    (tmp_path / "run.bm25.tsv").write_text("".join(f"0\t{n}\t{n}\n" for n in N))
    source = read_all(str(tmp_path))
    assert source.rows == alone.rows
    assert source.notes == ["not read, as their names do not say triples: run.bm25.tsv"]
    (tmp_path / "qidpidtriples.train.full.2.tsv").rename(tmp_path / "x.tsv")
    with pytest.raises(BadInput, match=r"line of run.bm25.tsv, x.tsv, and no file in .* says trip"):
        read_all(str(tmp_path))
    assert len(read_all(str(tmp_path / "x.tsv")).rows) == len(N)


def test_texts_and_tables_beside_a_collection_are_no_ids(tmp_path: Path) -> None:
    forms.id_triples(tmp_path)
    for name, head in (("a.tsv", "query\tpositive\tnegative\n"), ("b.tsv", "")):
        (tmp_path / name).write_text(f"{head}a b?\tyes\tno\n")
        assert found_in(read_all(str(tmp_path / name))) == {"a b?": ({"yes"}, {"no"})}


def test_a_cell_may_hold_lists_of_texts_and_labels(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_text('query,docs,score\na?,"[""b"", ""c""]","[1, 0]"\n')
    source = read_all(str(file))
    assert found_in(source) == {"a?": ({"b"}, {"c"})}
    assert source.notes == ["x.csv: read as grades of passages: score"]


def test_passages_that_are_ids_are_said(tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_text("1\t2\t3\n4\t5\t6\n")
    assert "all passages are numbers" in read_all(str(tmp_path / "x.tsv")).notes[0]


def test_a_file_of_several_that_is_empty_is_said(tmp_path: Path) -> None:
    lines(tmp_path / "train.jsonl", [{"query": "a?", "positive": "b"}])
    (tmp_path / "test.jsonl").write_text("")
    assert read_all(str(tmp_path)).notes == ["test.jsonl: holds no rows"]


def test_records_and_corpora_of_automodel_are_checked_one_by_one(tmp_path: Path) -> None:
    columns = {"id": ["1", "1", "2", "2"], "text": ["b", "b", "c", "d"]}
    forms.table(tmp_path / "c" / "train.parquet", columns)
    row = {"question": "a?", "pos_doc": ["1"]}
    file = tmp_path / "x.json"
    file.write_text(json.dumps({"corpus": {"path": "c"}, "data": [row, "a?"]}))
    with pytest.raises(
        BadInput, match=r"row 4: gives the id '2' to another text .*element 2: found str, wanted"
    ):
        read_all(str(file))
    assert list(found_in(read_all(str(file), most=2))) == ["a?"]


def test_files_about_a_data_set_hold_no_rows(tmp_path: Path) -> None:
    for name in ("dataset_infos.json", "state.json", "dataset_info.json"):
        (tmp_path / name).write_text('{"_data_files": []}')
    lines(tmp_path / "train.jsonl", [{"query": "a?", "positive": "b"}])
    assert found_in(read_all(str(tmp_path))) == {"a?": ({"b"}, set())}


def test_records_of_stage_0_are_known_by_any_of_the_first_ones(tmp_path: Path) -> None:
    unasked = {"file_name": "x", "chunks": []}
    file = lines(tmp_path / "x.jsonl", [unasked, forms.sdg_record(1)])
    assert list(found_in(read_all(str(file), most=1))) == [question(1)]


def test_what_another_input_is(tmp_path: Path) -> None:
    """Resuming compares every file that is read: a corpus elsewhere, and what a card names."""
    forms.corpus(tmp_path / "c", "c", {"1": "b"})
    folder = tmp_path / "f"
    folder.mkdir()
    file = folder / "x.json"
    row = {"question": "a?", "pos_doc": ["1"], "corpus_id": "c"}
    file.write_text(json.dumps({"corpus": {"path": "../c"}, "data": [row]}))
    assert parts(str(folder)) == [folder, folder / "../c"]
    assert parts(str(file)) == [file, folder / "../c"]
    card = "---\nconfigs:\n- config_name: mine\n  data_files: y.jsonl\n---\n"
    (tmp_path / "README.md").write_text(card)
    rows = lines(tmp_path / "y.jsonl", [{"query": "a?", "positive": "b"}])
    assert parts(str(tmp_path / "mine")) == [tmp_path / "README.md", rows]
    # The id of a corpus that is none is a row's fault.
    two = [{"path": "../c"}, {"path": "../d"}]
    forms.corpus(tmp_path / "d", "d", {"1": "e"})
    bad = {**row, "corpus_id": ["c"]}
    file.write_text(json.dumps({"corpus": two, "data": [row, bad]}))
    with pytest.raises(BadInput, match=r"element 2: has corpus_id \['c'\], wanted one of c, d"):
        read_all(str(file))


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
