"""What the fake CUDA has noted, counted. The forms of its lines are in fake/*.c."""

import itertools
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

VARIABLE = "FAKE_TRACE"
# Kernels that compute attention, by their mangled names; without one of its own it is two products
# around a softmax. Flash attention's first truth value says whether it is causal.
_ATTENTION = {
    "causal flash": re.compile(r"flash_fwd\w*EEEELb1E"),
    "flash": re.compile(r"flash_fwd"),
    "memory-efficient": re.compile(r"attention_kernel_batched"),
    "softmax": re.compile(r"softmax|Softmax"),
}


class Counts(msgspec.Struct):
    """One call: kernels of ONNX Runtime and products of cuBLAS that were launched; copies; waits of
    the host; memory that was taken; uses of cuDNN; graphs that were captured and replayed.

    `attention` counts its kernels by kind, `a_layer` are the most launches from one of them to the
    next. `illegal` are calls that a capture forbids, `frozen` captured copies that would read the
    host's memory again, `unanswered` functions of CUDA that the fake does not know.
    """

    kernels: int = 0
    products: int = 0
    to_device: int = 0
    to_host: int = 0
    waits: int = 0
    taken: int = 0
    cudnn: int = 0
    captured: int = 0
    replayed: int = 0
    a_layer: int = 0
    attention: dict[str, int] = {}
    illegal: list[str] = []
    frozen: list[str] = []
    unanswered: list[str] = []


def count(lines: Sequence[str]) -> Counts:
    """Count the events of one call."""
    words = Counter(line.partition(" ")[0] for line in lines)
    pairs = Counter(" ".join(line.split()[:2]) for line in lines)
    launched = [line for line in lines if line.startswith(("launch ", "product "))]
    kinds = [_kind(line) for line in launched]
    places = [place for place, kind in enumerate(kinds) if kind]
    copies = [line.split()[1] for line in lines if line.startswith("copy ")]
    return Counts(
        kernels=words["launch"],
        products=words["product"],
        to_device=sum(way.endswith("->device") and way != "device->device" for way in copies),
        to_host=sum(way.startswith("device->") and way != "device->device" for way in copies),
        waits=words["sync"],
        taken=words["take"],
        cudnn=words["cudnn"],
        captured=pairs["graph end"],
        replayed=pairs["graph launch"],
        a_layer=max((b - a for a, b in itertools.pairwise(places)), default=0),
        attention=dict(Counter(kind for kind in kinds if kind)),
        illegal=_named(lines, "illegal"),
        frozen=_named(lines, "frozen"),
        unanswered=_named(lines, "unanswered"),
    )


class Listening:
    """The lines that were written while it was the context."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    @property
    def counts(self) -> Counts:
        """See `count`."""
        return count(self.lines)


@contextmanager
def listening() -> Iterator[Listening]:
    """Gather what this process's fake CUDA notes within the block."""
    found, file = Listening(), Path(os.environ[VARIABLE])
    begin = file.stat().st_size if file.exists() else 0
    yield found
    with file.open() as text:
        text.seek(begin)
        found.lines = text.read().splitlines()


def _kind(line: str) -> str | None:
    kernel = line.startswith("launch ")
    return next((kind for kind, name in _ATTENTION.items() if kernel and name.search(line)), None)


def _named(lines: Sequence[str], word: str) -> list[str]:
    return sorted({line.partition(" ")[2] for line in lines if line.startswith(f"{word} ")})
