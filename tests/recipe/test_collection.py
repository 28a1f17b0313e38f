"""BEIR's layout as other programs write it, and what is refused."""

from pathlib import Path

import pytest

from recipe.errors import BadInput
from recipe.evaluation.collection import read_collection
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
    ],
)
def test_what_is_wrong_is_named(folder: Path, name: str, content: bytes, message: str) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(BadInput, match=message):
        read_collection(folder)
