"""A folder in BEIR's layout: corpus.jsonl, queries.jsonl, qrels/test.tsv; images beside them."""

import hashlib
import re
from codecs import BOM_UTF8
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import msgspec

from recipe.corpus_images import Document, ImageText, RowImage, find_image
from recipe.durable import UNREADABLE
from recipe.errors import BadInput

FILES = ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv")
_HASH_DIGITS = 16
_COLUMNS = 3
_WHOLE_NUMBER = re.compile(r"-?\d+", re.ASCII)


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

    def document(self, name: str) -> Document:
        """The passage of this id, whose image is not read yet."""
        image = self.images.get(name)
        return self.texts[name] if image is None else ImageText(self.texts[name], image)


class _Document(msgspec.Struct):
    id: str = msgspec.field(name="_id")
    text: str = ""
    title: str = ""
    image: str | None = None


class _Query(msgspec.Struct):
    id: str = msgspec.field(name="_id")
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
    texts: dict[str, str] = {}
    images: dict[str, RowImage] = {}
    file = folder / "corpus.jsonl"
    for number, offset, row in _rows(file, _Document):
        texts[row.id] = f"{row.title} {row.text}".strip()
        if row.image is not None:
            images[row.id] = find_image(file, offset, number, row.image)
    queries = {row.id: row.text for _, _, row in _rows(folder / "queries.jsonl", _Query)}
    shown = {name: text for name, text in texts.items() if text or name not in images}
    for what, held in (("query", queries), ("passage", shown)):
        blank = [name for name, text in held.items() if not text.strip() or "\0" in text]
        if blank:
            raise BadInput(
                f"{folder} holds {len(blank)} {what}(s) whose text is blank or not text (first: "
                f"{blank[0]!r}); wanted words: fix or remove them"
            )
    grades = _grades(folder / "qrels" / "test.tsv", queries, texts)
    judged = {name: text for name, text in queries.items() if name in grades}
    return Collection(texts, judged, grades, _digest(folder, images), images)


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


def _rows(file: Path, kind: type[_Row]) -> Iterator[tuple[int, int, _Row]]:
    """Each row, behind the number of its line and the byte at which that begins. One line is in
    memory at a time."""
    decoder = msgspec.json.Decoder(kind)
    ids: Counter[str] = Counter()
    offset = 0
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            begin, offset = offset, offset + len(line)
            if number == 1 and line.startswith(BOM_UTF8):
                begin, line = begin + len(BOM_UTF8), line.removeprefix(BOM_UTF8)
            if not line.strip():
                continue
            try:
                row = decoder.decode(line)
            except UNREADABLE as error:
                raise BadInput(
                    f"{file.name}, line {number}: {error}; fix the line, or run the stage prep "
                    "again"
                ) from error
            ids[row.id] += 1
            yield number, begin, row
    if not ids:
        raise BadInput(f"{file} is empty; run the stage prep on a larger corpus")
    twice = [name for name, count in ids.items() if count > 1]
    if twice:
        raise BadInput(
            f"{file.name} holds {len(twice)} id(s) more than once (first: {twice[0]}); wanted "
            "each once"
        )


def _grades(
    file: Path, queries: dict[str, str], texts: dict[str, str]
) -> dict[str, dict[str, int]]:
    grades: dict[str, dict[str, int]] = {}
    try:
        lines = file.read_bytes().decode("utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise BadInput(
            f"{file} is not UTF-8 (byte {error.start}); convert it, or run the stage prep again"
        ) from error
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        parts = line.rstrip("\r").split("\t")
        if number == 1 and len(parts) == _COLUMNS and parts[2][:1].isalpha():
            continue  # the header
        if len(parts) != _COLUMNS or not _WHOLE_NUMBER.fullmatch(parts[2]):
            raise BadInput(
                f"{file.name}, line {number}: found {line!r}, wanted query-id, corpus-id and a "
                "whole number, separated by tabs"
            )
        query, document, grade = parts
        for what, name, known in (("query", query, queries), ("passage", document, texts)):
            if name not in known:
                raise BadInput(
                    f"{file.name}, line {number} judges the {what} {name!r}, which is not in "
                    "the other files; run the stage prep again"
                )
        before = grades.setdefault(query, {}).setdefault(document, int(grade))
        if before != int(grade):
            raise BadInput(
                f"{file.name}, line {number} gives {grade} to the passage {document!r} for the "
                f"query {query!r}, and an earlier line {before}; wanted one judgement of a pair"
            )
    relevant = {query: found for query, found in grades.items() if max(found.values()) > 0}
    if not relevant:
        raise BadInput(f"{file} judges no passage as relevant; run the stage prep again")
    return relevant
