"""A folder in BEIR's layout: corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv; images beside them."""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec

from recipe.corpus_images import Document, ImageText, RowImage, find_image
from recipe.data.files import Place, placed_lines, text_lines
from recipe.data.rows import BadRow, Broken, usable
from recipe.durable import UNREADABLE
from recipe.errors import BadInput

CORPUS, QUERIES, TEST = "corpus.jsonl", "queries.jsonl", "qrels/test.tsv"
FILES = (CORPUS, QUERIES, TEST)
_HASH_DIGITS = 16
_COLUMNS = 3
_WHOLE_NUMBER = re.compile(r"-?\d+(\.0+)?", re.ASCII)


@dataclass(frozen=True)
class Collection:
    """`texts`, `images` (of those that have one) and `queries` by id; `grades` by query and passage
    id, of judged queries only.

    `digest` is a hash of the three files and the images: figures are comparable exactly when it is
    the same.
    """

    texts: dict[str, str]
    queries: dict[str, str]
    grades: dict[str, dict[str, int]]
    digest: str
    images: dict[str, RowImage] = field(default_factory=dict)

    def answer_texts(self, query: str) -> list[str]:
        """The texts of the passages that answer the query of this id."""
        return [self.texts[name] for name, grade in self.grades[query].items() if grade > 0]

    def document(self, name: str) -> Document:
        """The passage of this id, whose image is not read yet."""
        image = self.images.get(name)
        return self.texts[name] if image is None else ImageText(self.texts[name], image)


class _Named(msgspec.Struct):
    given: str | int = msgspec.field(name="_id")

    @property
    def id(self) -> str:
        """The id, which may be written as a number."""
        return str(self.given)


class _Document(_Named):
    text: str = ""
    title: str = ""
    image: str | None = None

    @property
    def body(self) -> str:
        """The title, a space and the text."""
        return f"{self.title} {self.text}".strip()


class _Query(_Named, kw_only=True):
    text: str


_Row = TypeVar("_Row", _Document, _Query)


def read_collection(folder: Path) -> Collection:
    """Read and check the folder. A passage is its title, a space and its text; an image; or both.

    qrels/test.tsv may begin with a header line, as BEIR's does. Raises BadInput for missing files,
    broken lines, blank texts, images that are missing or none, duplicate ids and judgements of
    unknown ids.
    """
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise BadInput(
            f"found no {missing[0]} in {folder}; run the stage prep first, or set eval_data_path "
            "to a folder in BEIR's layout"
        )
    broken = Broken(0, key=None)
    texts: dict[str, str] = {}
    images: dict[str, RowImage] = {}
    file = folder / CORPUS
    for number, place, row in _rows(file, _Document, broken):
        texts[row.id] = row.body
        if row.image is not None:
            images[row.id] = find_image(file, place, number, row.image)
    queries = read_queries(folder / QUERIES, broken)
    broken.settle(folder, lambda _: None)
    grades = read_grades(folder / TEST, queries, texts, broken)
    broken.settle(folder, lambda _: None)
    relevant = {query: found for query, found in grades.items() if max(found.values()) > 0}
    if not relevant:
        raise BadInput(f"{folder / TEST} judges no passage as relevant; run the stage prep again")
    judged = {name: text for name, text in queries.items() if name in relevant}
    return Collection(texts, judged, relevant, _digest(folder, images), images)


def read_texts(file: Path, broken: Broken) -> dict[str, str]:
    """The texts of a corpus.jsonl by id; rows with an image alone go to `broken`."""
    texts = {}
    for number, _, row in _rows(file, _Document, broken):
        if row.body:
            texts[row.id] = row.body
        else:
            broken.add(f"{file.name}, line {number}", "has an image and no text to train on")
    return texts


def read_queries(file: Path, broken: Broken) -> dict[str, str]:
    """The questions of a queries.jsonl by id."""
    return {row.id: row.text for _, _, row in _rows(file, _Query, broken)}


def _digest(folder: Path, images: dict[str, RowImage]) -> str:
    """A short hash of the folder's three files, and of the files of images."""
    digest = hashlib.sha256()
    for name in FILES:
        file = folder / name
        digest.update(f"{name} {file.stat().st_size}\n".encode())
        with file.open("rb") as lines:
            for line in lines:
                digest.update(line)
    for image in images.values():
        if image.name is not None:
            digest.update(f"{image.digest}\n".encode())
    return digest.hexdigest()[:_HASH_DIGITS]


def _rows(file: Path, kind: type[_Row], broken: Broken) -> Iterator[tuple[int, Place, _Row]]:
    """Each row, behind the number and the place of its line. One line is in memory at a time."""
    decoder = msgspec.json.Decoder(kind)
    ids: set[str] = set()
    for number, place, line in placed_lines(file):
        try:
            row = decoder.decode(line.encode("utf-8", "surrogateescape"))
            _refuse_blank(row)
            if row.id in ids:
                raise BadRow(f"the id {row.id!r} occurs more than once")
        except (BadRow, *UNREADABLE) as error:
            broken.add(f"{file.name}, line {number}", error)
            continue
        ids.add(row.id)
        yield number, place, row
    if not ids and not broken.count:
        raise BadInput(f"{file} is empty; run the stage prep on a larger corpus")


def _refuse_blank(row: _Document | _Query) -> None:
    """Raise BadRow for a row without words, unless it has an image."""
    text = row.body if isinstance(row, _Document) else row.text
    if text or not isinstance(row, _Document) or row.image is None:
        usable(text, "the text")


def read_grades(
    file: Path, queries: Mapping[str, str], texts: Mapping[str, str], broken: Broken
) -> dict[str, dict[str, int]]:
    """The judgements of a qrels file, by query and passage id. Raises BadInput."""
    grades: dict[str, dict[str, int]] = {}
    for number, line in text_lines(file, None):
        parts = line.split("\t")
        if number == 1 and len(parts) == _COLUMNS and parts[2][:1].isalpha():
            continue  # the header
        try:
            usable(line, "the line")
            _add_grade(parts, queries, texts, grades)
        except BadRow as error:
            broken.add(f"{file.name}, line {number}", error)
    return grades


def _add_grade(
    parts: Sequence[str],
    queries: Mapping[str, str],
    texts: Mapping[str, str],
    grades: dict[str, dict[str, int]],
) -> None:
    if len(parts) != _COLUMNS or not _WHOLE_NUMBER.fullmatch(parts[2]):
        found = "\t".join(parts)
        raise BadRow(
            f"found {found!r}, wanted query-id, corpus-id and a whole number, separated by tabs"
        )
    query, document, grade = parts
    for what, name, known in (("query", query, queries), ("passage", document, texts)):
        if name not in known:
            raise BadRow(f"judges the {what} {name!r}, which is not in the other files")
    number = int(float(grade))
    before = grades.setdefault(query, {}).setdefault(document, number)
    if before != number:
        raise BadRow(
            f"gives {grade} to the passage {document!r} for the query {query!r}, and an earlier "
            f"line {before}; wanted one judgement of a pair"
        )
