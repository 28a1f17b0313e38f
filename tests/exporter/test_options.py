"""Options for facts that no file of the checkpoint says."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from exporter.errors import ExportError
from exporter.options import read_prefixes, read_template

PROMPT = "Query: {query}\n \nDocument: {passage}\n<|end_of_text|>\n"


@pytest.mark.parametrize(
    ("written", "read", "message"),
    [
        (PROMPT, PROMPT[:-1], "newline at the end of prompt.txt is not part"),
        (f"{PROMPT}\n", PROMPT, "newline at the end"),
        (PROMPT[:-1], PROMPT[:-1], None),
        ("{query}\r\n{passage}\r\n", "{query}\r\n{passage}", "carriage returns"),
        ("\n {query} \\n {passage} ", "\n {query} \\n {passage} ", None),
        ("Frage: {query} – {passage} ☃", "Frage: {query} – {passage} ☃", None),
    ],
)
def test_a_file_is_read_as_it_is_but_for_one_newline_at_its_end(
    written: str, read: str, message: str | None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "prompt.txt"
    file.write_bytes(written.encode())
    assert read_template(str(file)) == (read, "--template prompt.txt")
    output = capsys.readouterr().err
    assert output == "" if message is None else message in output


def test_a_text_is_taken_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert read_template(PROMPT) == (PROMPT, "--template")
    long = "{query}" + "x" * 5000 + "{passage}"  # no file has such a name
    assert read_template(long) == (long, "--template")
    assert capsys.readouterr().err == ""
    escaped = r"{query}\n{passage}"
    assert read_template(escaped) == (escaped, "--template")
    assert (
        r"two characters of the text; for a newline write one: $'…\n…'" in capsys.readouterr().err
    )


def test_a_text_that_is_the_name_of_a_file_is_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "{query} {passage}").write_text("Q {query} P {passage}")
    found = "Q {query} P {passage}", "--template {query} {passage}"
    assert read_template("{query} {passage}") == found


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path.with_suffix(".md").touch(), "is no file and has no {passage}"),
        (lambda path: path.mkdir(), "it is a directory"),
        (os.mkfifo, "it is a FIFO"),
        (lambda path: path.write_bytes(b"{query} \xff {passage}"), "is not UTF-8"),
        (lambda path: path.write_bytes(b"\xef\xbb\xbf{query}{passage}"), "byte order mark"),
        (lambda path: path.write_text("{{query}} {{passage}}"), "with one pair of braces"),
        (lambda path: path.write_bytes(bytes(1 << 21)), "bytes, wanted"),
    ],
    ids=["absent", "directory", "fifo", "no UTF-8", "mark", "braces", "vast"],
)
def test_what_is_no_file_of_text_is_refused(
    make: Callable[[Path], object], message: str, tmp_path: Path
) -> None:
    make(tmp_path / "prompt.txt")
    with pytest.raises(ExportError, match=message) as refused:
        read_template(str(tmp_path / "prompt.txt"))
    assert "prompt.txt" in str(refused.value)


@pytest.mark.parametrize("text", ["", "{{query}} {passage}", "{query} {passage} \udcff"])
def test_what_is_no_text_of_a_template_is_refused(text: str) -> None:
    with pytest.raises(ExportError, match="--template"):
        read_template(text)


def test_prefixes_of_both_kinds(capsys: pytest.CaptureFixture[str]) -> None:
    both = [("passage", "p: "), ("query", "q=1 ")]
    assert read_prefixes(both) == {"query": "q=1 ", "passage": "p: "}
    assert read_prefixes(both[:1]) == {"query": "", "passage": "p: "}
    assert read_prefixes([("query", "")]) == {}
    assert capsys.readouterr().err == ""
    assert read_prefixes([("query", r"a\n")])["query"] == r"a\n"
    assert "two characters" in capsys.readouterr().err
    with pytest.raises(ExportError, match="query= more than once"):
        read_prefixes([("query", "a"), ("query", "a")])
    with pytest.raises(ExportError, match="UTF-8"):
        read_prefixes([("query", "\udcff")])
