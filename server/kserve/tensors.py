"""Named tensors as KServe v2 carries them: in JSON, or as raw little-endian bytes.

BYTES elements are texts here; raw ones have their length in four bytes before them. Formats: the
Open Inference Protocol and Triton's binary tensor data extension.
"""

import math
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from server.errors import NotValid

BYTES = "BYTES"
_DATATYPES = {"INT8": "i1", "UINT8": "u1", "INT32": "<i4", "FP32": "<f4"}
_LENGTH = struct.Struct("<I")
_MOST_AXES = 2


@dataclass(frozen=True)
class TextTensor:
    """An input: `texts` in row order, declared with `shape` [n] or [n, 1]."""

    name: str
    shape: tuple[int, ...]
    texts: list[str]


@dataclass(frozen=True)
class Output:
    """An output; `values` of a dtype that `datatype_of` knows."""

    name: str
    values: npt.NDArray[np.generic]

    @property
    def datatype(self) -> str:
        """KServe's name of the dtype."""
        return datatype_of(self.values.dtype)

    def raw(self) -> bytes:
        """Row-major little-endian bytes."""
        return self.values.astype(_DATATYPES[self.datatype], copy=False).tobytes()


def datatype_of(dtype: np.dtype[Any]) -> str:
    """KServe's name of a dtype."""
    return next(name for name, code in _DATATYPES.items() if np.dtype(code) == dtype)


def from_json(name: str, datatype: str, shape: Sequence[int], data: Any) -> TextTensor:
    """A tensor whose `data` are texts, flat or nested as the shape is. Raises NotValid."""
    _check(name, datatype, shape)
    texts = list(_flat(data, name))
    _check_count(name, shape, len(texts))
    return TextTensor(name, tuple(shape), texts)


def from_elements(
    name: str, datatype: str, shape: Sequence[int], elements: Sequence[bytes]
) -> TextTensor:
    """A tensor whose elements came one by one (gRPC's typed contents)."""
    _check(name, datatype, shape)
    _check_count(name, shape, len(elements))
    return TextTensor(name, tuple(shape), [_text(element, name) for element in elements])


def from_raw(name: str, datatype: str, shape: Sequence[int], raw: memoryview) -> TextTensor:
    """A tensor of length-prefixed texts. Raises NotValid for lengths that do not fit."""
    _check(name, datatype, shape)
    texts = []
    place = 0
    while place < len(raw):
        if place + _LENGTH.size > len(raw):
            raise NotValid("value_error", (name,), "found bytes behind the last element")
        (length,) = _LENGTH.unpack_from(raw, place)
        place += _LENGTH.size
        if length > len(raw) - place:
            message = f"found an element of {length} bytes, but only {len(raw) - place} are left"
            raise NotValid("value_error", (name,), message)
        texts.append(_text(bytes(raw[place : place + length]), name))
        place += length
    _check_count(name, shape, len(texts))
    return TextTensor(name, tuple(shape), texts)


def _check(name: str, datatype: str, shape: Sequence[int]) -> None:
    if datatype != BYTES:
        raise NotValid("value_error", (name,), f"wanted the datatype {BYTES}")
    column = len(shape) <= 1 or (len(shape) == _MOST_AXES and shape[1] == 1)
    if not shape or not column or shape[0] < 1:
        raise NotValid("value_error", (name,), "wanted the shape [n] or [n, 1] with n of 1 or more")


def _check_count(name: str, shape: Sequence[int], found: int) -> None:
    if (wanted := math.prod(shape)) != found:
        raise NotValid("value_error", (name,), f"found {found} elements, the shape says {wanted}")


def _flat(data: Any, name: str, depth: int = _MOST_AXES) -> Iterator[str]:
    if not isinstance(data, list):
        raise NotValid("type_error", (name,), "wanted a list of texts as data")
    for item in data:
        if isinstance(item, str):
            yield item
        elif isinstance(item, list) and depth > 1:
            yield from _flat(item, name, depth - 1)
        else:
            raise NotValid("type_error", (name,), "wanted texts as data, nested as the shape is")


def _text(element: bytes, name: str) -> str:
    try:
        return element.decode()
    except UnicodeDecodeError:
        raise NotValid("value_error", (name,), "found bytes that are not UTF-8") from None
