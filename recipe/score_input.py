"""The input of rerank score: its lines by number, and which of them can be scored."""

import hashlib
import sys
from codecs import BOM_UTF8
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

import msgspec

from recipe.errors import BadInput
from runtime.model_files import open_file


class Asked(msgspec.Struct):
    """One line of the input."""

    query: str
    passages: list[str]
    id: str | int | None = None


_DECODER = msgspec.json.Decoder(Asked)


class Input:
    """An open file. It is read three times, whatever may bear its name by then."""

    def __init__(self, source: Path) -> None:
        """Raises BadInput for what is no regular file."""
        try:
            self._file: BufferedReader = open_file(source, sys.maxsize)
        except OSError as error:
            raise BadInput(f"cannot read {source}: {error.strerror}; name a file") from error
        self._source = source
        self.digest, self.lines = "", 0
        self.broken: list[int] = []

    def look_through(self) -> None:
        """Find out the sha256, the number of lines, and the numbers of those that cannot be scored.

        Raises BadInput where none can.
        """
        digest = hashlib.sha256()
        for number, line in self._numbered():
            digest.update(line)
            self.lines = number
            if not _can_be_scored(line):
                self.broken.append(number)
        self.digest = digest.hexdigest()
        if not self.scored:
            raise BadInput(
                f"found no line that can be scored among {self.lines} in {self._source}, wanted "
                '{"query": "…", "passages": ["…"]} on each'
            )

    @property
    def scored(self) -> int:
        """How many lines can be scored."""
        return self.lines - len(self.broken)

    def good(self) -> Iterator[tuple[int, bytes]]:
        """Those lines, with their numbers."""
        broken = set(self.broken)
        return (line for line in self._numbered() if line[0] not in broken)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _numbered(self) -> Iterator[tuple[int, bytes]]:
        """A byte order mark is no part of the first line."""
        self._file.seek(0)
        for number, line in enumerate(self._file, start=1):
            yield number, line.removeprefix(BOM_UTF8) if number == 1 else line


def decoded(number: int, line: bytes) -> Asked:
    """A line that could be scored at the first look. Raises BadInput where it cannot now."""
    try:
        return _DECODER.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise BadInput(
            f"line {number} of the input has changed since the first look; wait until nobody "
            "writes it, and begin anew with --force"
        ) from error


def _can_be_scored(line: bytes) -> bool:
    try:
        asked = _DECODER.decode(line)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return False
    texts = [asked.query, *asked.passages]
    return len(texts) > 1 and not any(not t or t.isspace() or "\0" in t for t in texts)
