"""The input of rerank score: numbered lines, and which of them can be scored."""

import hashlib
import sys
from codecs import BOM_UTF8
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path

import msgspec

from recipe.durable import UNREADABLE
from recipe.errors import BadInput
from runtime.model_files import open_file


class InputLine(msgspec.Struct):
    """One line of the input."""

    query: str
    passages: list[str]
    id: str | int | None = None


_DECODER = msgspec.json.Decoder(InputLine)


class Input:
    """An open file. It is read three times, even if its name is reused meanwhile."""

    def __init__(self, source: Path) -> None:
        """Raises BadInput when it is not a regular file."""
        try:
            self._file: BufferedReader = open_file(source, sys.maxsize)
        except OSError as error:
            raise BadInput(f"cannot read {source}: {error.strerror}; name a file") from error
        self._source = source
        self.digest, self.lines = "", 0
        self.broken: list[int] = []

    def scan(self) -> None:
        """Compute the sha256, the number of lines, and the numbers of lines that cannot be scored.

        Raises BadInput when no line can be scored.
        """
        digest = hashlib.sha256()
        for number, line in self._numbered_lines():
            digest.update(line)
            self.lines = number
            if not _is_scorable(line):
                self.broken.append(number)
        self.digest = digest.hexdigest()
        if not self.scored:
            raise BadInput(
                f"found no line that can be scored among {self.lines} in {self._source}, wanted "
                '{"query": "…", "passages": ["…"]} on each'
            )

    @property
    def scored(self) -> int:
        """The number of lines that can be scored."""
        return self.lines - len(self.broken)

    def scorable_lines(self) -> Iterator[tuple[int, bytes]]:
        """The lines that can be scored, with their numbers."""
        broken = set(self.broken)
        return (line for line in self._numbered_lines() if line[0] not in broken)

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _numbered_lines(self) -> Iterator[tuple[int, bytes]]:
        """All lines with their numbers, without a byte order mark."""
        self._file.seek(0)
        for number, line in enumerate(self._file, start=1):
            yield number, line.removeprefix(BOM_UTF8) if number == 1 else line


def decoded(number: int, line: bytes) -> InputLine:
    """A line that passed `scan`. Raises BadInput when it has changed since."""
    try:
        return _DECODER.decode(line)
    except UNREADABLE as error:
        raise BadInput(
            f"line {number} of the input has changed since it was checked; wait until no process "
            "writes to it, and start over with --force"
        ) from error


def _is_scorable(line: bytes) -> bool:
    try:
        asked = _DECODER.decode(line)
    except UNREADABLE:
        return False
    texts = [asked.query, *asked.passages]
    return len(texts) > 1 and not any(not t or t.isspace() or "\0" in t for t in texts)
