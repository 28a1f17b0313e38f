"""Pack a wheel that is too large for one file: python -m checks.gpu.pack WHEEL… --only-arch 90

Writes NAME.tar.xz.00, .01, … into build/gpu, which `make test-gpu` and `make bench-gpu` unpack on
the target machine. With the compute capability of its GPU (90 for 9.0) code for others is left out:
onnxruntime-gpu then is two pieces instead of seven.
"""

import argparse
import io
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import IO

from checks.gpu.bundled import FOLDER
from checks.gpu.prune import prune

_MEGABYTE = 1 << 20
_CUDA_LIBRARY = "_cuda.so"
# For programs in C; Python's module has it inside.
_UNREAD = "libonnxruntime.so"


def pack(
    wheel: Path, folder: Path = FOLDER, most: int = 40 * _MEGABYTE, keep: Collection[int] = ()
) -> list[str]:
    """Write the contents of `wheel` into pieces of at most `most` bytes in `folder`, replacing
    those of an earlier run; returns their names. `keep` are the compute capabilities whose code
    stays, none for all."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = f"{wheel.stem}.tar.xz"
    for old in folder.glob(f"{stem}.[0-9][0-9]"):
        old.unlink()
    names: list[str] = []
    with tempfile.TemporaryFile() as packed:
        with tarfile.open(fileobj=packed, mode="w:xz") as tar, zipfile.ZipFile(wheel) as content:
            for info in content.infolist():
                name = info.filename.rpartition("/")[2]
                if keep and name.startswith(_UNREAD):
                    continue
                member = tarfile.TarInfo(info.filename)
                member.size = info.file_size
                with content.open(info) as file:
                    if keep and name.endswith(_CUDA_LIBRARY):
                        tar.addfile(member, _pruned(file, keep))
                    else:
                        tar.addfile(member, file)
        packed.seek(0)
        while piece := packed.read(most):
            names.append(f"{stem}.{len(names):02}")
            (folder / names[-1]).write_bytes(piece)
    return names


def _pruned(file: IO[bytes], keep: Collection[int]) -> IO[bytes]:
    library = bytearray(file.read())
    gone = prune(library, keep)
    listed = ", ".join(f"{arch} ({size / _MEGABYTE:.0f} MB)" for arch, size in sorted(gone.items()))
    print(f"left out the code for {listed or 'no card'}")
    return io.BytesIO(library)


def main(arguments: Sequence[str] | None = None) -> int:
    """Pack the wheels that are named."""
    parser = argparse.ArgumentParser(prog="python -m checks.gpu.pack", description=__doc__)
    parser.add_argument("wheels", nargs="+", type=Path)
    parser.add_argument(
        "--only-arch", nargs="*", type=int, default=[], metavar="90", help="code for these GPUs"
    )
    parser.add_argument("--out", type=Path, default=FOLDER, help="the folder (%(default)s)")
    args = parser.parse_args(arguments)
    for wheel in args.wheels:
        print(
            f"{wheel.name}: {len(pack(wheel, args.out, keep=args.only_arch))} pieces in {args.out}"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
