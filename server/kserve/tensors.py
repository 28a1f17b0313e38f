"""Named tensors in KServe v2's formats: JSON, or raw little-endian bytes.

BYTES elements are texts here; raw ones have a length prefix of four bytes. Formats: the Open
Inference Protocol and Triton's binary tensor data extension.
"""

import math
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from server.call import Limit, Place
from server.errors import InvalidRequest

BYTES = "BYTES"
_DATATYPES = {"INT8": "i1", "UINT8": "u1", "INT32": "<i4", "FP32": "<f4"}
_LENGTH = struct.Struct("<I")
_MOST_AXES = 2


# An input: its name, and its texts in row order.
TextTensor = tuple[str, list[str]]


@dataclass(frozen=True)
class Output:
    """An output; `values` of a dtype in _DATATYPES."""

    name: str
    values: npt.NDArray[np.generic]

    @property
    def datatype(self) -> str:
        """KServe's name of the dtype."""
        return next(name for name, code in _DATATYPES.items() if code == self.values.dtype)

    def raw(self) -> bytes:
        """Row-major little-endian bytes."""
        return self.values.astype(_DATATYPES[self.datatype], copy=False).tobytes()


@dataclass(frozen=True)
class Declared:
    """The declaration of a tensor at `place` in the body, and the `limit` of its texts. Errors name
    the place, because the tensor's name is the caller's text."""

    place: Place
    name: str
    datatype: str
    shape: Sequence[int]
    parameters: Mapping[str, Any]
    limit: Limit


def text_tensor(declared: Declared, texts: Iterable[str]) -> TextTensor:
    """The declared tensor with `texts`, of which it reads at most one more than the shape says.
    Raises InvalidRequest, before reading any if the declaration is wrong."""
    refuse_shared_memory(declared.place, declared.parameters)
    if declared.datatype != BYTES:
        raise _wrong(declared, f"wanted the datatype {BYTES}")
    shape = declared.shape
    column = len(shape) <= 1 or (len(shape) == _MOST_AXES and shape[1] == 1)
    if not shape or not column or shape[0] < 1:
        raise _wrong(declared, "wanted the shape [n] or [n, 1] with n of 1 or more")
    declared.limit.check(shape[0], declared.place)
    wanted = math.prod(shape)
    found = list(islice(texts, wanted + 1))
    if len(found) != wanted:
        count = "more" if len(found) > wanted else len(found)
        raise _wrong(declared, f"found {count} elements, the shape says {wanted}")
    return declared.name, found


def texts_of_json(data: Any, declared: Declared, depth: int = _MOST_AXES) -> Iterator[str]:
    """Yield the texts in `data`, flat or nested like the shape. Raises InvalidRequest."""
    if not isinstance(data, list):
        raise _wrong(declared, "wanted a list of texts as data")
    for item in data:
        if isinstance(item, str):
            yield item
        elif isinstance(item, list) and item and depth > 1:  # empty lists are refused
            yield from texts_of_json(item, declared, depth - 1)
        else:
            raise _wrong(declared, "wanted texts as data, nested as the shape is")


def texts_of_raw(raw: memoryview, declared: Declared) -> Iterator[str]:
    """Yield length-prefixed texts. Raises InvalidRequest for wrong lengths."""
    place = 0
    for element in elements_of(raw):
        yield text_of(element, declared)
        place += _LENGTH.size + len(element)
    left = len(raw) - place - _LENGTH.size
    if left >= 0:
        (length,) = _LENGTH.unpack_from(raw, place)
        raise _wrong(declared, f"found an element of {length} bytes, but only {left} are left")
    if place < len(raw):
        raise _wrong(declared, "found bytes behind the last element")


def elements_of(raw: memoryview) -> Iterator[memoryview]:
    """Yield the elements of length-prefixed texts, up to the first wrong length."""
    place = 0
    while place + _LENGTH.size <= len(raw):
        (length,) = _LENGTH.unpack_from(raw, place)
        place += _LENGTH.size
        if length > len(raw) - place:
            return
        yield raw[place : place + length]
        place += length


def refuse_shared_memory(place: Place, parameters: Mapping[str, Any]) -> None:
    """Raise InvalidRequest for a tensor in shared memory."""
    if any(word.startswith("shared_memory") for word in parameters):
        message = "shared memory is not served here; let the tensor travel in the message"
        raise InvalidRequest("value_error", place, message)


def _wrong(declared: Declared, message: str) -> InvalidRequest:
    return InvalidRequest("value_error", declared.place, message)


def text_of(element: bytes | memoryview, declared: Declared) -> str:
    """The text of one element. Raises InvalidRequest."""
    try:
        return str(element, "utf-8")
    except UnicodeDecodeError:
        raise _wrong(declared, "found bytes that are not UTF-8") from None
