"""Rows of JSON lines, JSON, CSV, TSV and parquet files, one at a time, with their numbers.

JSON lines, CSV, TSV and parquet are read in bounded memory; a `.json` is parsed whole. Each of the
text forms may be compressed (`.gz`), and begin with a byte order mark of UTF-8, UTF-16 or UTF-32.
"""

import codecs
import csv
import gzip
import io
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import count, islice
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
# What a file begins with; its encoding with the mark, and that of what follows.
_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig", "utf-8"),
    # Before UTF-16, whose mark it begins with.
    (codecs.BOM_UTF32_LE, "utf-32", "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32", "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16", "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16", "utf-16-be"),
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


class Place(msgspec.Struct, frozen=True):
    """Where a line begins in its file, in bytes, and its encoding without a mark."""

    offset: int
    encoding: str


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
    if kind == ".json" and not is_lines(file, text.encoding):
        return _json(file, text, broken)
    return _lines(file, text, broken)


def first_records(file: Path, text: Text, most: int) -> Iterator[dict[str, Any]]:
    """The first rows that can be read. Raises BadInput."""
    return (record for _, record in islice(records(file, text, Broken(None)), most))


def open_text(file: Path, encoding: str | None, newline: str) -> io.TextIOWrapper:
    """The file's text; bytes of another encoding become surrogates, which `usable` names."""
    opener: Any = gzip.open if file.suffix == ".gz" else open
    try:
        if encoding is not None:
            codecs.lookup(encoding)
        marked = _mark(file)[1]
    except (gzip.BadGzipFile, EOFError) as error:
        raise BadInput(f"{file} cannot be read ({error}); wanted a file that gzip wrote") from error
    except LookupError as error:
        raise BadConfig(
            f"found encoding = {encoding!r}, wanted one that Python knows, such as cp1252, utf-16 "
            "or latin-1"
        ) from error
    if encoding is not None and marked is not None:
        # A mark of the named encoding is no text, whichever way the encoding is spelled.
        family = marked.removesuffix("-sig")
        encoding = marked if codecs.lookup(encoding).name.startswith(family) else encoding
    raw = opener(file, "rb")
    return io.TextIOWrapper(raw, encoding or marked or "utf-8", "surrogateescape", newline)


def text_lines(file: Path, encoding: str | None, newline: str = "\n") -> Iterator[tuple[int, str]]:
    """(number, line) without line breaks and blank lines; numbers count from 1. Raises BadInput."""
    with open_text(file, encoding, newline) as held:
        for number, line in _whole_lines(file, held):
            if line.strip():
                yield number, line.rstrip("\r\n")


def placed_lines(file: Path) -> Iterator[tuple[int, Place, str]]:
    """(number, where it begins, line) likewise, of a file in UTF-8 or with a mark."""
    mark, _, encoding = _mark(file)
    offset = len(mark)
    with open_text(file, None, "\n") as held:
        for number, line in _whole_lines(file, held):
            begin, offset = offset, offset + len(line.encode(encoding, "surrogateescape"))
            if line.strip():
                yield number, Place(begin, encoding), line.rstrip("\r\n")


def line_at(file: Path, place: Place) -> str:
    """The line that begins at `place`, which `placed_lines` gave."""
    held = file.open("rb")
    held.seek(place.offset)
    with io.TextIOWrapper(held, place.encoding, newline="\n") as lines:
        return lines.readline()


def _mark(file: Path) -> tuple[bytes, str | None, str]:
    """The byte order mark that the file begins with, and its row of _MARKS."""
    opener: Any = gzip.open if file.suffix == ".gz" else open
    with opener(file, "rb") as held:
        begin = held.read(4)
    return next((one for one in _MARKS if begin.startswith(one[0])), (b"", None, "utf-8"))


def _whole_lines(file: Path, held: io.TextIOWrapper) -> Iterator[tuple[int, str]]:
    """(number, line) with line breaks. Raises BadInput."""
    for number in count(1):
        try:
            line = held.readline(_LONGEST + 1)
        except (OSError, EOFError, UnicodeError) as error:
            raise BadInput(f"{file}, line {number}: cannot be read ({error})") from error
        if not line:
            return
        if len(line) > _LONGEST:
            raise BadInput(
                f"{file}, line {number} is longer than {_LONGEST} characters, wanted one row a line"
            )
        yield number, line


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


def is_lines(file: Path, encoding: str | None = None) -> bool:
    """Whether a .json holds a record a line, as some programs write it; reads two lines of it."""
    try:
        with open_text(file, encoding, "\n") as held:
            lines = iter(partial(held.readline, _LONGEST + 1), "")
            found = list(islice((line for line in lines if line.strip()), 2))
        whole = len(found) == 2 and len(found[0]) <= _LONGEST
        return whole and isinstance(msgspec.json.decode(found[0].encode()), dict)
    except (OSError, EOFError, UnicodeError, *UNREADABLE):
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


# What the module csv says where a quote took the lines after it.
_UNCLOSED = ("unexpected end of data", "field larger than field limit")


class _Quoted(csv.excel):
    strict = True


class _Raw(csv.excel):
    quoting = csv.QUOTE_NONE


def _table(file: Path, text: Text, broken: Broken) -> Found:
    csv.field_size_limit(_LONGEST)
    header, headed, delimiter = _header(file, text)
    # Tables without a header (MS MARCO's) are written without quoting.
    style = _Quoted if headed else _Raw
    with open_text(file, text.encoding, "") as lines:
        for begin, row in _cells(file, _Lines(lines), style, delimiter, broken):
            if not any(cell.strip() for cell in row):
                continue
            if headed:
                headed = False
                continue
            if len(row) != len(header):
                broken.add(
                    f"{file.name}, {begin}",
                    f"found {len(row)} cells, wanted {len(header)} ({', '.join(header)})",
                )
            else:
                yield begin, dict(zip(header, row, strict=True))


class _Lines:
    """The lines of a table; those after the first of a row can be read again.

    `done` are the lines of finished rows, `taken` the others that were read.
    """

    def __init__(self, lines: Iterator[str]) -> None:
        self._lines = lines
        self._again: deque[str] = deque()
        self.taken: list[str] = []
        self.done = 0

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        self.taken.append(self._again.popleft() if self._again else next(self._lines))
        return self.taken[-1]

    def finish(self, most: int | None = None) -> None:
        """Finish the row; of its lines only the first `most`, the others are read again."""
        self._again.extendleft(reversed(self.taken[most:] if most else []))
        self.done += len(self.taken[:most])
        self.taken.clear()


def _cells(
    file: Path, lines: _Lines, style: type[csv.Dialect], delimiter: str, broken: Broken
) -> Iterator[tuple[str, list[str]]]:
    """(place, cells) of each row. Raises BadInput.

    The first line of a row that cannot be parsed goes to `broken`; a quote that never closes would
    else take all lines after it.
    """
    rows = csv.reader(lines, style, delimiter=delimiter)
    while True:
        number = lines.done + 1
        try:
            row = next(rows)
        except StopIteration:
            return
        except csv.Error as error:
            unclosed = any(one in str(error) for one in _UNCLOSED)
            why = "opens a quote that never closes" if unclosed else error
            broken.add(f"{file.name}, line {number}", why)
            lines.finish(1)
        except (UnicodeError, OSError, EOFError) as error:
            raise BadInput(f"{file}, line {number}: cannot be read ({error})") from error
        else:
            lines.finish()
            yield f"line {lines.done}", row


def _header(file: Path, text: Text) -> tuple[list[str], bool, str]:
    """The columns' names, whether the file begins with them, and what stands between cells."""
    # A lone carriage return ends a row too ("": as the module csv wants it).
    first = next(text_lines(file, text.encoding, ""), (1, ""))[1]
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
