"""Pack a wheel that is too large for one file: python -m checks.gpu.pack WHEEL…

Writes NAME.tar.xz.00, .01, … into build/gpu, which `make test-gpu` and `make bench-gpu` unpack on
the target machine. It takes minutes for onnxruntime-gpu.
"""

import argparse
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

from checks.gpu.bundled import FOLDER

_MEGABYTE = 1 << 20


def pack(wheel: Path, folder: Path = FOLDER, most: int = 30 * _MEGABYTE) -> list[str]:
    """Write the contents of `wheel` into pieces of at most `most` bytes in `folder`, replacing
    those of an earlier run; returns their names."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{wheel.stem}.tar.xz"
    for old in folder.glob(f"{stem}.[0-9][0-9]"):
        old.unlink()
    names: list[str] = []
    with tempfile.TemporaryFile() as packed:
        with tarfile.open(fileobj=packed, mode="w:xz") as tar, zipfile.ZipFile(wheel) as content:
            for info in content.infolist():
                member = tarfile.TarInfo(info.filename)
                member.size = info.file_size
                with content.open(info) as file:
                    tar.addfile(member, file)
        packed.seek(0)
        while piece := packed.read(most):
            names.append(f"{stem}.{len(names):02}")
            (folder / names[-1]).write_bytes(piece)
    return names


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
