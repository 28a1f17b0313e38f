"""Files that are whole or not there, whatever kills the process that writes them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Generic, TypeVar

import msgspec

from recipe.errors import OutputRefused
from runtime.outputs import place_of
from runtime.outputs import write_atomic as write_atomic
from runtime.outputs import write_json as write_json

Entry = TypeVar("Entry", bound=msgspec.Struct)


class Journal(Generic[Entry]):
    """One line of JSON for each finished piece of work, in the order in which they finished.

    A line counts once its line break is written: what a killed process left of one is cut off, so
    that its piece is done again and none is done twice. Each line is one of the structs `kinds`
    (none: any value), so that what others wrote, or a disk damaged, is noticed and never cut.
    """

    def __init__(self, path: Path, *kinds: type[Entry]) -> None:
        self.path = place_of(path)
        wanted: tuple[Any, ...] = kinds or (Any,)
        self._decoders: list[Any] = [msgspec.json.Decoder(kind) for kind in wanted]
        self._begins = [f'{{"{msgspec.structs.fields(k)[0].encode_name}":'.encode() for k in kinds]

    def read(self) -> list[Entry]:
        """`entries`, all of them."""
        return list(self.entries())

    def entries(self) -> Iterator[Entry]:
        """Every whole line; a torn last one is removed from the file once the others are read.

        Raises OutputRefused that names a line which is no entry of this journal.
        """
        if not self.path.exists():
            return
        whole = 0
        with self.path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    self._refuse_other_beginning(number, line)
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
            except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
                reason = str(error)
        raise self._damaged(number, reason)

    def _refuse_other_beginning(self, number: int, torn: bytes) -> None:
        if self._begins and not any(torn.startswith(one[: len(torn)]) for one in self._begins):
            raise self._damaged(number, "a torn one would begin otherwise")

    def _damaged(self, number: int, reason: str) -> OutputRefused:
        return OutputRefused(
            f"line {number} of {self.path} is damaged or not this command's ({reason}); move the "
            "file away, and what it held is done again"
        )

    @contextmanager
    def open(self) -> Iterator["JournalWriter"]:
        """Append to what `read` found."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("ab", buffering=0) as file:
            yield JournalWriter(file.fileno())


class JournalWriter:
    """Appends lines."""

    def __init__(self, handle: int) -> None:
        self._handle = handle

    def write(self, *entries: Any) -> None:
        """Append the entries and wait, once, until all are on the disk; if that fails, none are.

        For one thread at a time: a failure cuts the file back to where its write began, so that
        nothing is ever appended to half a line.
        """
        rest = memoryview(b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries))
        # A write may be short, on a full disk or when a signal comes: what is left is still to go.
        before = os.fstat(self._handle).st_size
        try:
            while rest:
                rest = rest[os.write(self._handle, rest) :]
            os.fsync(self._handle)
        except BaseException:
            os.truncate(self._handle, before)
            raise
