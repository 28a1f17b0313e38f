"""Which operators TensorRT's ONNX parser takes, and since which version: tensorrt_operators.toml.

Imports neither onnx nor PyTorch, because a serving image builds plans, too.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

import msgspec

Version = tuple[int, ...]


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The restrictions of one operator; see the file."""

    main: int = 0
    outputs: int | None = None
    absent: tuple[int, ...] = ()
    constant: tuple[int, ...] = ()
    zero: tuple[int, ...] = ()
    without: tuple[str, ...] = ()
    ranks: dict[int, int] = {}
    kinds: dict[int, str] = {}


class _Names(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    operators: str


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    versions: tuple[str, ...]
    opsets: tuple[int, int]
    types: dict[str, tuple[str, ...]]
    operators: dict[str, str]
    since: dict[str, str]
    limits: dict[str, Limits]
    axes: _Names
    unread: _Names


@dataclass(frozen=True)
class Operator:
    """What the parser says of one operator. `types` are those of its main value, by ONNX's names;
    `limits` is None if it has restrictions that the table does not hold."""

    since: str
    types: frozenset[str]
    limits: Limits | None


def opsets() -> tuple[int, int]:
    """The first and the last opset that are parsed."""
    return _file().opsets


@cache
def supported() -> Mapping[str, Operator]:
    """Every operator that some version takes, by its name."""
    file = _file()
    limits: dict[str, Limits | None] = {
        **file.limits,
        **dict.fromkeys(file.axes.operators.split(), Limits(constant=(1,))),
        **dict.fromkeys(file.unread.operators.split()),
    }
    return {
        name: Operator(
            file.since.get(name, file.versions[0]),
            frozenset(file.types[kind]),
            limits.get(name, Limits()),
        )
        for kind, names in file.operators.items()
        for name in names.split()
    }


def first_version(names: Iterable[str]) -> str | None:
    """The oldest version whose parser takes all the operators called `names`, like "10.15"; None if
    no version takes one of them."""
    known = supported()
    found = [known[name].since if name in known else None for name in names]
    versions = [version for version in found if version is not None]
    if len(versions) < len(found):
        return None
    return max(versions, key=numbers, default=_file().versions[0])


def numbers(version: str) -> Version:
    """(10, 16, 1, 11) of "10.16.1.11", to compare versions."""
    return tuple(int(part) for part in version.split(".") if part.isdecimal())


@cache
def _file() -> _File:
    text = resources.files("exporter").joinpath("tensorrt_operators.toml").read_bytes()
    # Keys of TOML are texts.
    return msgspec.toml.decode(text, type=_File, strict=False)
