"""Files that are complete or absent, even if the writing process is killed."""

import os
from codecs import BOM_UTF8
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from recipe.errors import OutputRefused
from runtime.outputs import place_of
from runtime.outputs import write_atomic as write_atomic
from runtime.outputs import write_json as write_json

Entry = TypeVar("Entry", bound=msgspec.Struct)
Content = TypeVar("Content")
# What msgspec raises for bytes that are not JSON of the wanted type.
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def read_json(
    file: Path, kind: type[Content], damaged: Callable[[Exception], Exception] | None = None
) -> Content | None:
    """The JSON in `file`, which may begin with a byte order mark; None when it is missing.

    For another content, raises what `damaged` makes of the error; without `damaged`, returns None.
    """
    try:
        return msgspec.json.decode(file.read_bytes().removeprefix(BOM_UTF8), type=kind)
    except FileNotFoundError:
        return None
    except UNREADABLE as error:
        if damaged is None:
            return None
        raise damaged(error) from error


class Journal(Generic[Entry]):
    """One line of JSON for each finished unit of work, in the order of completion.

    A line counts once its line break is written. A partial last line, left by a killed process, is
    cut off, so that its unit is done again and none is done twice. Each line is one of the structs
    `kinds` (none: any value), so that foreign or damaged lines are detected and never cut.
    """

    def __init__(self, path: Path, *kinds: type[Entry]) -> None:
        self.path = place_of(path)
        wanted: tuple[Any, ...] = kinds or (Any,)
        self._decoders: list[Any] = [msgspec.json.Decoder(kind) for kind in wanted]
        self._starts = [f'{{"{msgspec.structs.fields(k)[0].encode_name}":'.encode() for k in kinds]

    def read(self) -> list[Entry]:
        """All of `entries` as a list."""
        return list(self.entries())

    def entries(self) -> Iterator[Entry]:
        """Every complete line; a partial last line is removed after the others are read.

        Raises OutputRefused with the number of a line that is not an entry of this journal.
        """
        if not self.path.exists():
            return
        whole = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    self._refuse_foreign_start(number, line)
                    break
                yield self._entry(number, line)
                whole += len(line)
            else:
                return
        os.truncate(self.path, whole)

    def _entry(self, number: int, line: bytes) -> Entry:
        for decoder in self._decoders:
            try:
                entry: Entry = decoder.decode(line)
                return entry
            except UNREADABLE as error:
                reason = str(error)
        raise self._damaged(number, reason)

    def _refuse_foreign_start(self, number: int, partial: bytes) -> None:
        if self._starts and not any(
            partial.startswith(one[: len(partial)]) for one in self._starts
        ):
            raise self._damaged(number, "its beginning is not that of an entry")

    def _damaged(self, number: int, reason: str) -> OutputRefused:
        return OutputRefused(
            f"line {number} of {self.path} is damaged or not from this command ({reason}); move "
            "the file away to repeat the work in it"
        )

    @contextmanager
    def open(self) -> Iterator["JournalWriter"]:
        """Open for appending after `read`."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab", buffering=0) as file:
            yield JournalWriter(file.fileno())


class JournalWriter:
    """Appends lines."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def write(self, *entries: Any) -> None:
        """Append the entries and wait until all are on disk; if that fails, none are.

        For one thread at a time. A failure truncates the file to its length before the write, so
        that nothing is appended to a partial line.
        """
        rest = memoryview(msgspec.json.Encoder().encode_lines(entries))
        # A write may be short, on a full disk or after a signal: write the rest.
        before = os.fstat(self._handle).st_size
        try:
            while rest:
                rest = rest[os.write(self._handle, rest) :]
            os.fsync(self._handle)
        except BaseException:
            os.truncate(self._handle, before)
            raise
