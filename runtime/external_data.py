"""Where an ONNX file keeps its weights: read from its bytes, without loading them.

A file may name others that hold its tensors (ONNX, TensorProto.external_data). A name that leads
out of the model's directory would make the process read any file of the machine, so names are
checked before an engine sees the file. Only the fields that lead to tensors are followed; the
numbers are those of onnx.proto, the encoding is that of Protocol Buffers.
"""

import mmap
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from runtime.errors import ArtifactError

# message → field number → the message in it. Fields that are not named are skipped.
_FIELDS: Mapping[str, Mapping[int, str]] = {
    "Model": {7: "Graph", 20: "Training", 25: "Function"},
    "Training": {1: "Graph", 2: "Graph"},
    "Function": {7: "Node", 11: "Attribute"},
    "Graph": {1: "Node", 5: "Tensor", 15: "Sparse"},
    "Node": {5: "Attribute"},
    "Attribute": {
        5: "Tensor",
        6: "Graph",
        10: "Tensor",
        11: "Graph",
        22: "Sparse",
        23: "Sparse",
    },
    "Sparse": {1: "Tensor", 2: "Tensor"},
    "Tensor": {13: "Entry"},
}
_KEY, _VALUE = 1, 2
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_MOST_VARINT_BITS = 70
# Graphs in attributes of nodes of graphs; real ones have two or three.
_DEEPEST = 64

Span = tuple[int, int]


def external_files(model_file: Path) -> set[str]:
    """The names of all files that hold tensors of `model_file`, as they stand in it.

    Raises ArtifactError when it cannot be read or is no ONNX file.
    """
    try:
        with (
            model_file.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            return set(_locations(data, "Model", (0, len(data)), 0))
    except ValueError as error:  # of an empty file as well
        raise ArtifactError(
            f"{model_file.name} is no ONNX file ({error}); export the checkpoint again"
        ) from None
    except OSError as error:
        raise ArtifactError(
            f"cannot read {model_file.name}: {error.strerror}; make it readable for user id "
            f"{os.getuid()}, as which this process runs"
        ) from error


def check_external_files(model_file: Path) -> set[str]:
    """`external_files`, each of which must be a file in the directory of `model_file`.

    Raises ArtifactError.
    """
    directory = model_file.parent.resolve()
    found = external_files(model_file)
    for name in found:
        path = directory / name
        if Path(name).is_absolute() or not path.resolve().is_relative_to(directory):
            raise ArtifactError(
                f"{model_file.name} names a file outside its directory for its weights; "
                "export the checkpoint again"
            )
        if not path.is_file():
            raise ArtifactError(f"found no file {name!r}, in which {model_file.name} has weights")
    return found


def _locations(data: mmap.mmap, message: str, span: Span, depth: int) -> Iterator[str]:
    if depth > _DEEPEST:
        raise ValueError("nested too deeply")
    inside = _FIELDS[message]
    for number, (start, end) in _fields(data, span):
        if number not in inside:
            continue
        if inside[number] == "Entry":
            entry = {n: data[low:high] for n, (low, high) in _fields(data, (start, end))}
            if entry.get(_KEY) == b"location":
                yield entry.get(_VALUE, b"").decode()
        else:
            yield from _locations(data, inside[number], (start, end), depth + 1)


def _fields(data: mmap.mmap, span: Span) -> Iterator[tuple[int, Span]]:
    """The fields of bytes in `span`; those of other types are stepped over."""
    at, end = span
    while at < end:
        tag, at = _varint(data, at, end)
        number, kind = tag >> 3, tag & 7
        if kind == _BYTES:
            size, at = _varint(data, at, end)
            if size > end - at:
                raise ValueError("a field is longer than what holds it")
            yield number, (at, at + size)
            at += size
        elif kind == _VARINT:
            _, at = _varint(data, at, end)
        elif kind in (_FIXED64, _FIXED32):
            at += 8 if kind == _FIXED64 else 4
        else:
            raise ValueError(f"a field of unknown type {kind}")
    if at != end:
        raise ValueError("a field is longer than what holds it")


def _varint(data: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        if at >= end or shift > _MOST_VARINT_BITS:
            raise ValueError("a number does not end")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
