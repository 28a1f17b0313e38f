"""Rows of JSON lines, JSON, CSV, TSV and parquet files, one at a time, with their numbers.

JSON lines, CSV, TSV and parquet are read in bounded memory; a `.json` is parsed whole. Each of the
text forms may be compressed (`.gz`), and begin with a byte order mark of UTF-8, UTF-16 or UTF-32.
"""

import codecs
import csv
import gzip
import io
from collections.abc import Callable, Iterator, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import msgspec

from recipe.data.rows import Broken
from recipe.durable import UNREADABLE
from recipe.errors import BadConfig, BadInput

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
# The longest line that is read: a file without line breaks is no file of rows.
_LONGEST = 64 * 2**20
_BATCH_ROWS = 256
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),  # before UTF-16, whose mark it begins with
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
Found = Iterator[tuple[str, dict[str, Any]]]


class Text(msgspec.Struct, frozen=True):
    """How text files are read; `encoding` None: by their byte order mark, else UTF-8.

    A table begins with a header when it has one of the `known` names, in lower case; otherwise
    `headless` says what the columns of one of that width are (None: the first line is a header).
    """

    encoding: str | None = None
    known: frozenset[str] = frozenset()
    headless: Callable[[int], Sequence[str] | None] = lambda _: None


def suffix(file: Path) -> str:
    """The suffix that says the form, without `.gz`."""
    return (Path(file.stem) if file.suffix == ".gz" else file).suffix.lower()


def records(file: Path, text: Text, broken: Broken) -> Found:
    """(place, record) of each row. Rows that are no records go to `broken`. Raises BadInput."""
    kind = suffix(file)
    if kind == ".parquet":
        return _parquet(file)
    if kind in (".csv", ".tsv"):
        return _table(file, text, broken)
    if kind == ".json" and not _is_lines(file, text):
        return _json(file, text, broken)
    return _lines(file, text, broken)


def first_record(file: Path, text: Text) -> dict[str, Any]:
    """The first row that can be read; empty when there is none. Raises BadInput."""
    return next((record for _, record in records(file, text, Broken(None))), {})


def open_text(file: Path, encoding: str | None, newline: str) -> io.TextIOWrapper:
    """The file's text; bytes of another encoding become surrogates, which `usable` names."""
    opener: Any = gzip.open if file.suffix == ".gz" else open
    try:
        if encoding is not None:
            codecs.lookup(encoding)
        with opener(file, "rb") as start:
            mark = start.read(4)
    except (gzip.BadGzipFile, EOFError) as error:
        raise BadInput(f"{file} cannot be read ({error}); wanted a file that gzip wrote") from error
    except LookupError as error:
        raise BadConfig(
            f"found encoding = {encoding!r}, wanted one that Python knows, such as cp1252, utf-16 "
            "or latin-1"
        ) from error
    marked = next((name for known, name in _MARKS if mark.startswith(known)), "utf-8")
    raw = opener(file, "rb")
    return io.TextIOWrapper(raw, encoding or marked, "surrogateescape", newline)


def text_lines(file: Path, encoding: str | None) -> Iterator[tuple[int, str]]:
    """(number, line) without line breaks and blank lines; numbers count from 1. Raises BadInput."""
    with open_text(file, encoding, "\n") as lines:
        for number in count(1):
            try:
                line = lines.readline(_LONGEST + 1)
            except (OSError, EOFError, UnicodeError) as error:
                raise BadInput(f"{file}, line {number}: cannot be read ({error})") from error
            if not line:
                return
            if len(line) > _LONGEST:
                raise BadInput(
                    f"{file}, line {number} is longer than {_LONGEST} characters, wanted one row "
                    "a line"
                )
            if line.strip():
                yield number, line.rstrip("\r\n")


def _lines(file: Path, text: Text, broken: Broken) -> Found:
    for number, line in text_lines(file, text.encoding):
        place = f"line {number}"
        try:
            found = msgspec.json.decode(line.encode())
        except UnicodeEncodeError:
            broken.add(
                f"{file.name}, {place}",
                "is not UTF-8; convert the file, or name its encoding (encoding=cp1252)",
            )
            continue
        except UNREADABLE as error:
            broken.add(f"{file.name}, {place}", error)
            continue
        yield from _dicts(file, place, found, broken)


def _is_lines(file: Path, text: Text) -> bool:
    """Whether a .json holds a record a line, as some programs write it."""
    lines = text_lines(file, text.encoding)
    first, second = next(lines, None), next(lines, None)
    if first is None or second is None:
        return False
    try:
        return isinstance(msgspec.json.decode(first[1].encode()), dict)
    except (UnicodeEncodeError, *UNREADABLE):
        return False


def whole_json(file: Path, encoding: str | None) -> Any:
    """The content of a JSON file. Raises BadInput."""
    try:
        with open_text(file, encoding, "\n") as held:
            return msgspec.json.decode(held.read().encode())
    except (OSError, EOFError, UnicodeError, *UNREADABLE) as error:
        raise BadInput(f"{file} cannot be read as JSON ({error})") from error


def _json(file: Path, text: Text, broken: Broken) -> Found:
    found = whole_json(file, text.encoding)
    if isinstance(found, dict) and isinstance(found.get("data"), list):
        found = found["data"]
    for number, one in enumerate(found if isinstance(found, list) else [found], start=1):
        yield from _dicts(file, f"element {number}", one, broken)


def _dicts(file: Path, place: str, found: Any, broken: Broken) -> Found:
    """A record, or each record of a list."""
    for one in found if isinstance(found, list) else [found]:
        if isinstance(one, dict):
            yield place, one
        else:
            broken.add(f"{file.name}, {place}", f"found {type(one).__name__}, wanted an object")


class _Quoted(csv.excel):
    strict = True


class _Raw(csv.excel):
    quoting = csv.QUOTE_NONE


def _table(file: Path, text: Text, broken: Broken) -> Found:
    csv.field_size_limit(_LONGEST)
    with open_text(file, text.encoding, "") as lines:
        header, headed, delimiter = _header(file, text)
        # Tables without a header (MS MARCO's) are written without quoting.
        style = _Quoted if headed else _Raw
        rows = csv.reader(lines, style, delimiter=delimiter)
        try:
            for row in rows:
                if (headed and rows.line_num == 1) or not any(row):
                    headed = False
                    continue
                place = f"line {rows.line_num}"
                if len(row) != len(header):
                    broken.add(
                        f"{file.name}, {place}",
                        f"found {len(row)} cells, wanted {len(header)} ({', '.join(header)})",
                    )
                else:
                    yield place, dict(zip(header, row, strict=True))
        except (csv.Error, UnicodeError, OSError, EOFError) as error:
            raise BadInput(f"{file}, line {rows.line_num}: cannot be read ({error})") from error


def _header(file: Path, text: Text) -> tuple[list[str], bool, str]:
    """The columns' names, whether the file begins with them, and what stands between cells."""
    first = next(text_lines(file, text.encoding), (1, ""))[1]
    delimiters = "\t" if suffix(file) == ".tsv" else ",;\t|"
    tried = []
    for delimiter in delimiters:
        cells = next(csv.reader([first], delimiter=delimiter), [])
        names = [cell.strip() for cell in cells]
        if text.known & {name.lower() for name in names}:
            return names, True, delimiter
        tried.append((len(names), names, delimiter))
    widest, names, delimiter = max(tried, key=lambda one: one[0])
    headless = text.headless(widest) if delimiter == "\t" else None
    if headless is not None:
        return list(headless), False, delimiter
    return names, True, delimiter


def _parquet(file: Path) -> Found:
    from pyarrow import ArrowException, parquet  # late: a hundred megabytes

    try:
        with parquet.ParquetFile(file) as table:
            numbers = count(1)
            for batch in table.iter_batches(batch_size=_BATCH_ROWS):
                for row in batch.to_pylist():
                    yield f"row {next(numbers)}", row
    except (ArrowException, OSError) as error:
        raise BadInput(f"{file} cannot be read as parquet ({error})") from error
