"""Packages bundled for a machine without network: wheels in build/gpu.

A wheel is a zip and is unpacked. An archive NAME.tar.xz of unpacked packages, in pieces
NAME.tar.xz.00, .01 …, is joined first.
"""

import io
import sys
import tarfile
import zipfile
from collections.abc import Iterable
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

# What is said where PyTorch sees no GPU; it may be that of another Python.
NO_GPU = (
    f"no GPU found: PyTorch of {sys.executable} sees no CUDA device; wanted one NVIDIA GPU with "
    "its driver, and PyTorch built for CUDA (GPU_PYTHON names another Python)"
)
FOLDER = Path(__file__).resolve().parents[2] / "build" / "gpu"


def use_bundled(folder: Path = FOLDER) -> list[str]:
    """Unpack the files in `folder`, once, and put them first on sys.path; returns their names."""
    archives = sorted(folder.glob("*.whl")) + sorted(folder.glob("*.tar.xz.00"))
    if not archives:
        return []
    site = folder / "site"
    for archive in archives:
        done = site / f".{archive.name}.unpacked"
        if not done.exists():
            site.mkdir(exist_ok=True)
            _unpack(archive, site)
            done.touch()
    sys.path.insert(0, str(site))
    return [archive.name for archive in archives]


def lacking(*packages: str) -> str | None:
    """Which of these packages this Python lacks; None: none of them."""
    missing = [name for name in packages if find_spec(name) is None]
    if not missing:
        return None
    return (
        f"found no {', '.join(missing)} in {sys.executable}; install them, or name another Python "
        "(GPU_PYTHON)"
    )


def versions(packages: Iterable[str]) -> dict[str, str | None]:
    """The installed version of each package; None: it is missing."""
    found: dict[str, str | None] = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    return found


def _unpack(archive: Path, site: Path) -> None:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(site)
        return
    pieces = sorted(archive.parent.glob(f"{archive.stem}.[0-9][0-9]"))
    joined = io.BytesIO(b"".join(piece.read_bytes() for piece in pieces))
    with tarfile.open(fileobj=joined, mode="r:xz") as tar:
        tar.extractall(site, filter="data")
