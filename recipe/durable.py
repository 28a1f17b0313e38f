"""Files that are whole or not there, whatever kills the process that writes them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec

_CHUNK_BYTES = 1 << 20


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` beside `path`, and rename it there when it lies on the disk."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def write_json(path: Path, value: Any) -> None:
    """`write_whole` of `value` as indented JSON."""
    write_whole(path, msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")


class Journal:
    """One line of JSON for each finished piece of work, in the order in which they finished.

    A line counts once its line break is written: what a killed process left of one is cut off, so
    that its piece is done again and none is done twice.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def read(self) -> list[Any]:
        """Every whole line; a torn last one is removed from the file."""
        if not self._path.exists():
            return []
        content = self._path.read_bytes()
        whole = content[: content.rfind(b"\n") + 1]
        if len(whole) < len(content):
            os.truncate(self._path, len(whole))
        return [msgspec.json.decode(line) for line in whole.splitlines()]

    def count(self) -> int:
        """How many whole lines there are, by a look at their ends only; cuts as `read` does."""
        if not self._path.exists():
            return 0
        lines = whole = size = 0
        with self._path.open("rb") as file:
            while chunk := file.read(_CHUNK_BYTES):
                lines += chunk.count(b"\n")
                last = chunk.rfind(b"\n")
                whole = size + last + 1 if last >= 0 else whole
                size += len(chunk)
        if whole < size:
            os.truncate(self._path, whole)
        return lines

    @contextmanager
    def open(self) -> Iterator["JournalWriter"]:
        """Append to what `read` found."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("ab", buffering=0) as file:
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
