"""Pack a wheel that is too large for one file: python -m checks.gpu.pack WHEEL…

Writes NAME.tar.xz.00, .01, … into build/gpu, which `make test-gpu` and `make bench-gpu` unpack on
the target machine. It takes minutes for onnxruntime-gpu.
"""

import argparse
import lzma
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import IO

from checks.gpu.bundled import FOLDER

_MEGABYTE = 1 << 20


class _Pieces:
    """A file to write to, split into files of at most `most` bytes; `names` are those so far."""

    def __init__(self, folder: Path, stem: str, most: int) -> None:
        self._folder, self._stem, self._most = folder, stem, most
        self._file: IO[bytes] | None = None
        self.names: list[str] = []

    def write(self, data: bytes) -> int:
        """Append, starting a new piece when the last one is full."""
        left = memoryview(data)
        while left:
            if self._file is None or self._file.tell() == self._most:
                self._next()
            assert self._file is not None
            room = self._most - self._file.tell()
            self._file.write(left[:room])
            left = left[room:]
        return len(data)

    def _next(self) -> None:
        self.close()
        self.names.append(f"{self._stem}.{len(self.names):02}")
        self._file = (self._folder / self.names[-1]).open("wb")

    def close(self) -> None:
        """Finish the last piece."""
        if self._file is not None:
            self._file.close()


def pack(wheel: Path, folder: Path = FOLDER, most: int = 30 * _MEGABYTE) -> list[str]:
    """Write the contents of `wheel` into pieces of at most `most` bytes in `folder`, replacing
    those of an earlier run; returns their names."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{wheel.stem}.tar.xz"
    for old in folder.glob(f"{stem}.[0-9][0-9]"):
        old.unlink()
    with (
        closing(_Pieces(folder, stem, most)) as pieces,
        lzma.open(pieces, "wb") as packed,  # type: ignore[call-overload]
        tarfile.open(fileobj=packed, mode="w|") as tar,
        zipfile.ZipFile(wheel) as content,
    ):
        for info in content.infolist():
            member = tarfile.TarInfo(info.filename)
            member.size = info.file_size
            with content.open(info) as file:
                tar.addfile(member, file)
    return pieces.names


def main(arguments: Sequence[str] | None = None) -> int:
    """Pack the wheels that are named."""
    parser = argparse.ArgumentParser(prog="python -m checks.gpu.pack", description=__doc__)
    parser.add_argument("wheels", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, default=FOLDER, help="the folder (%(default)s)")
    args = parser.parse_args(arguments)
    for wheel in args.wheels:
        print(f"{wheel.name}: {len(pack(wheel, args.out))} pieces in {args.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
