"""Build the fake CUDA 13 that onnxruntime-gpu is run under.

The sources in fake/ answer what the library asks to decide something. What else it imports becomes
a function that notes "unanswered" in the trace and returns success, so a run that depends on more
than the fake knows is seen.
"""

import re
import subprocess
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

_SOURCES = Path(__file__).with_name("fake")
_FLAGS = ("-O1", "-fPIC", "-Wall", "-Wextra", "-Werror")
_REST = 'int {0}(void) {{ trace("{1} {0}"); return 0; }}\n'
CUDNN = "libcudnn.so.9"


@dataclass(frozen=True)
class _Library:
    """A library of CUDA: its sources, flags, and the names that are looked for in it: those
    imported with its name as their version, or without one those of the form `unversioned`. `noted`
    is the trace's word for a call of one that no source has."""

    name: str
    sources: tuple[str, ...]
    flags: tuple[str, ...] = ()
    unversioned: str | None = None
    noted: str = "unanswered"


_CUDART = ("cudart.c", "cudart_kernels.c", "cudart_memory.c", "cudart_streams.c")
_LIBRARIES = (
    _Library("libcudart.so.13", _CUDART),
    _Library("libcublas.so.13", ("cublas.c",)),
    _Library("libcublasLt.so.13", ("cublas.c",), ("-DLIGHT",)),
    _Library("libcurand.so.10", (), unversioned=r"curand\w+"),
    _Library("libcuda.so.1", ("cuda.c",), unversioned=r"cu[A-Z]\w+"),
)


def build(provider: Path, headers: Path, out: Path) -> tuple[Path, Path]:
    """Build for the library `provider` of onnxruntime-gpu with NVIDIA's `headers`; returns the
    folder of all but cuDNN and that of cuDNN. Raises CalledProcessError."""
    together, apart = out / "lib", out / "lib-cudnn"
    wanted = _imported(provider)
    for library in _LIBRARIES:
        form = library.unversioned
        names = wanted[None if form else library.name]
        mine = [name for name in names if re.fullmatch(form or r"\w+", name)]
        _compile(library, mine, headers, together)
    # Not linked but looked up by name, so the names are among the library's strings.
    looked_up = set(re.findall(rb"(?<=\0)cudnn[A-Z]\w+(?=\0)", provider.read_bytes()))
    cudnn = sorted(name.decode() for name in looked_up)
    _compile(_Library(CUDNN, ("cudnn.c",), noted="cudnn"), cudnn, headers, apart)
    return together, apart


def _compile(library: _Library, wanted: Iterable[str], headers: Path, out: Path) -> None:
    work = out / library.name.partition(".")[0]
    work.mkdir(parents=True, exist_ok=True)
    objects = []
    for source in library.sources:
        made = work / f"{source}.o"
        _cc(*library.flags, "-I", headers, "-c", _SOURCES / source, "-o", made)
        objects.append(made)
    answered = {name for one in objects for name in _symbols(one, "--defined-only")}
    rest = work / "rest.c"
    rest.write_text(
        '#include "trace.h"\n'
        + "".join(_REST.format(name, library.noted) for name in wanted if name not in answered)
    )
    versions = work / "versions.map"
    versions.write_text(f"{library.name} {{ global: *; }};\n")
    exported = () if library.unversioned else ("-Wl,--version-script", versions)
    soname = f"-Wl,-soname,{library.name}"
    _cc("-I", _SOURCES, "-shared", soname, *exported, rest, *objects, "-o", out / library.name)


def _cc(*arguments: object) -> None:
    subprocess.run(["cc", *_FLAGS, *map(str, arguments)], check=True)


def _imported(provider: Path) -> Mapping[str | None, list[str]]:
    """Names by the version that they are imported with; None: without one."""
    found: dict[str | None, list[str]] = defaultdict(list)
    for symbol in _symbols(provider, "--dynamic", "--undefined-only"):
        name, _, version = symbol.partition("@")
        found[version or None].append(name)
    return found


def _symbols(file: Path, *which: str) -> list[str]:
    done = subprocess.run(["nm", *which, str(file)], capture_output=True, text=True, check=True)
    return sorted({line.split()[-1] for line in done.stdout.splitlines()})
