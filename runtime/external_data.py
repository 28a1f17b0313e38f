"""The external data of an ONNX file: names of weight files, read without loading any weights.

An ONNX file may keep tensors in other files (TensorProto.external_data). A name that leads out of
the model's directory would make the process read any file of the machine, so names are checked
before an engine opens the file (`runtime/model_files.py`). Only fields that lead to tensors are
followed. Field numbers are those of onnx.proto, the encoding is that of Protocol Buffers.
"""

import mmap
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from runtime.errors import ArtifactError
from runtime.model_files import GRAPH_BYTES, find_file, open_file

# Message → field number → the message in that field. Other fields are skipped.
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
_MOST_VARINT_BYTES = 11
# The deepest nesting of messages; real files have two or three graphs inside graphs.
_DEEPEST = 64
# Graphs of many thousand nodes have a million fields.
_MOST_FIELDS = 1 << 22

Span = tuple[int, int]


def external_files(model_file: Path) -> set[str]:
    """The names of all external data files of `model_file`, as written in it.

    Raises ArtifactError when it cannot be read or is not an ONNX file.
    """
    try:
        with (
            open_file(model_file, GRAPH_BYTES) as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            return set(_Scan(data).locations("Model", (0, len(data))))
    except ValueError as error:  # of an empty file as well
        raise ArtifactError(
            f"{model_file.name} is no ONNX file ({error}); export the checkpoint again"
        ) from None
    except OSError as error:
        raise ArtifactError(f"cannot read {model_file.name}: {error.strerror}") from error


def check_external_files(model_file: Path) -> set[str]:
    """`external_files`, after a check that each is a file in the directory of `model_file`.

    Raises ArtifactError.
    """
    found = external_files(model_file)
    for name in found:
        try:
            find_file(model_file.parent, str(PurePosixPath(name)))
        except OSError as error:
            raise ArtifactError(
                f"{model_file.name} has weights in {name[:80]!r}, which cannot be used: "
                f"{error.strerror}; export the checkpoint again"
            ) from error
    return found


class _Scan:
    """A bounded walk through the fields of an ONNX file."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._fields_left = _MOST_FIELDS

    def locations(self, message: str, span: Span, depth: int = 0) -> Iterator[str]:
        """The file names in the `message` at `span`."""
        if depth > _DEEPEST:
            raise ValueError("nested too deeply")
        inside = _FIELDS[message]
        for number, (start, end) in self._fields(span):
            if number not in inside:
                continue
            if inside[number] == "Entry":
                entry = {n: self._data[low:high] for n, (low, high) in self._fields((start, end))}
                if entry.get(_KEY) == b"location":
                    yield entry.get(_VALUE, b"").decode()
            else:
                yield from self.locations(inside[number], (start, end), depth + 1)

    def _fields(self, span: Span) -> Iterator[tuple[int, Span]]:
        """The length-delimited fields in `span`; fields of other types are skipped."""
        at, end = span
        while at < end:
            self._fields_left -= 1
            if self._fields_left < 0:
                raise ValueError(f"more than {_MOST_FIELDS} fields")
            tag, at = self._varint(at, end)
            number, kind = tag >> 3, tag & 7
            if number == 0:
                raise ValueError("a field without a number")
            if kind == _BYTES:
                size, at = self._varint(at, end)
                if size > end - at:
                    raise ValueError("a field is longer than what holds it")
                yield number, (at, at + size)
                at += size
            elif kind == _VARINT:
                _, at = self._varint(at, end)
            elif kind in (_FIXED64, _FIXED32):
                at += 8 if kind == _FIXED64 else 4
            else:
                raise ValueError(f"a field of unknown type {kind}")
        if at != end:
            raise ValueError("a field is longer than what holds it")

    def _varint(self, at: int, end: int) -> tuple[int, int]:
        value = 0
        for place, byte in enumerate(self._data[at : min(end, at + _MOST_VARINT_BYTES)]):
            value |= (byte & 0x7F) << 7 * place
            if byte < 0x80:
                return value, at + place + 1
        raise ValueError("a number does not end")
