"""BEIR's layout as other programs write it, and what is refused."""

from pathlib import Path

import pytest

from recipe.data.reading import Reading, read
from recipe.data.rows import Broken
from recipe.errors import BadInput
from recipe.evaluation.collection import FILES, read_collection
from tests.recipe.models.material import write_beir

QRELS = "qrels/test.tsv"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six questions about 24 passages."""
    return write_beir(tmp_path / "beir", range(18, 24))


def test_judgements_need_no_line_of_titles(folder: Path) -> None:
    titled = read_collection(folder)
    file = folder / QRELS
    text = "\ufeff" + file.read_text("utf-8").partition("\n")[2] + "\n\n"
    file.write_text(text, "utf-8")
    assert read_collection(folder).grades == titled.grades


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be", "utf-32"])
def test_files_of_any_unicode_with_a_mark_are_read(folder: Path, encoding: str) -> None:
    # U+0A0A and U+0D0A hold the bytes of line breaks, and not every character has two bytes.
    corpus = folder / "corpus.jsonl"
    corpus.write_text(corpus.read_text("utf-8").replace("said", "said 𝄞 \u0a0a \u0d0a"), "utf-8")
    plain = read_collection(folder)
    for name in FILES:
        mark = "\ufeff" if encoding.endswith("-be") else ""
        text = mark + (folder / name).read_text("utf-8").replace("\n", "\r\n")
        (folder / name).write_bytes(text.encode(encoding))
    found = read_collection(folder)
    assert (found.texts, found.queries, found.grades) == (plain.texts, plain.queries, plain.grades)
    assert found.digest != plain.digest
    rows = read(str(folder), Reading(), Broken(0), lambda _: None).rows
    assert [row.id for row in rows] == list(plain.queries)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (QRELS, b"q18\td1\t--1\n", "line 1: found"),
        (QRELS, b"q18\td1\t1.5\n", "line 1: found"),
        (QRELS, b"q18\td1\t1\nq18\td1\t0\n", "line 2: gives 0 .* an earlier line 1"),
        (QRELS, b"q18\td1\t1\n\xe4\td1\t1\n", "line 2: the line is not UTF-8"),
        (
            "queries.jsonl",
            b'{"_id": "q18", "text": " "}\n',
            "queries.jsonl, line 1: the text is blank",
        ),
        (
            "corpus.jsonl",
            b'{"_id": "d1", "text": "a\\u0000b"}\n',
            "corpus.jsonl, line 1: the text is not text",
        ),
        ("corpus.jsonl", b'{"_id": "d1", "text": "\xe4"}\n', "corpus.jsonl, line 1"),
        ("corpus.jsonl", '{"_id": "d1"}'.encode("utf-16")[:-1], "line 1: cannot be read"),
        (
            "queries.jsonl",
            '{"_id": "q18", "text": "a?"}\n{"_id": "q18", "text": "b?"}\n'.encode("utf-16"),
            "line 2: the id 'q18' occurs more",
        ),
    ],
)
def test_what_is_wrong_is_named(folder: Path, name: str, content: bytes, message: str) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(BadInput, match=message):
        read_collection(folder)


def test_ids_and_grades_may_be_written_as_numbers(folder: Path) -> None:
    (folder / "corpus.jsonl").write_text('{"_id": 1, "text": "a"}\n{"_id": 2, "text": "b"}\n')
    (folder / "queries.jsonl").write_text('{"_id": 7, "text": "a?"}\n')
    (folder / QRELS).write_text("7\t1\t1.0\n7\t2\t0.00\n")
    assert read_collection(folder).grades == {"7": {"1": 1, "2": 0}}
