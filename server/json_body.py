"""Decode a JSON body into a struct. An InvalidRequest names the place that does not fit."""

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from server.errors import InvalidRequest
from server.lax import read_lax

T = TypeVar("T")
Place = tuple[str | int, ...]

# msgspec ends its messages with the place, as in "… - at `$.passages[3].text`".
_PLACE = re.compile(r"^(?P<message>.*?)(?: - at `(?P<key>key in )?\$(?P<path>[^`]*)`)?$", re.DOTALL)
_MISSING = re.compile(r"missing required field `(\w+)`")
_STEP = re.compile(r"\.(\w+)|\[(\d+)\]")
# The position at which the decoder gave up on a body that is not JSON, if not at its end.
_BYTE = re.compile(r"\(byte (\d+)\)$")
# The first half of a surrogate pair without the second; searched in so many bytes before the error.
_HALF = re.compile(
    rb"(?<!\\)(?:\\\\)*\\u[dD][89abAB][0-9a-fA-F]{2}(?!\\u[dD][c-fC-F][0-9a-fA-F]{2})"
)
_NEAR_BYTES = 64


def decode(decoder: "msgspec.json.Decoder[T]", body: bytes | memoryview, at: Place = ()) -> T:
    """Decode `body`, whose size `server.json_size` has measured, or the part of it that is `at`
    that place. InvalidRequest says where it is wrong, without repeating it."""
    try:
        return decoder.decode(body)
    except msgspec.ValidationError as error:
        raise _schema_error(str(error), at) from None
    except msgspec.DecodeError as error:
        raise InvalidRequest("json_invalid", (), _why(str(error), body)) from None
    except UnicodeDecodeError:
        raise InvalidRequest("json_invalid", (), "found bytes that are not UTF-8") from None
    except RecursionError:
        raise InvalidRequest("json_invalid", (), "found JSON that is nested too deeply") from None


def converted(value: Mapping[str, Any], kind: type[T]) -> T:
    """The struct `kind`, whose fields may be Flag and Whole, of a body that is decoded. Raises
    InvalidRequest as `decode` does."""
    try:
        return msgspec.convert(value, kind, dec_hook=read_lax)
    except msgspec.ValidationError as error:
        raise _schema_error(str(error)) from None


def _why(message: str, body: bytes | memoryview) -> str:
    """Why `body` is not JSON. JSON can encode half a surrogate pair, which no text can contain; the
    decoder may report it as an unexpected end."""
    place = _BYTE.search(message)
    end = int(place[1]) if place else len(body)
    if "surrogate" in message or _HALF.search(body[max(0, end - _NEAR_BYTES) : end]):
        return "found half of a surrogate pair, wanted both or neither; send whole characters"
    return message


def _schema_error(message: str, at: Place = ()) -> InvalidRequest:
    found = _PLACE.match(message)
    path = found["path"] if found else None
    location = at + tuple(int(i) if i else name for name, i in _STEP.findall(path or ""))
    text = found["message"] if found else message
    if missing := _MISSING.search(text):
        return InvalidRequest(
            "missing", (*location, missing[1]), f"wanted the field `{missing[1]}`"
        )
    return InvalidRequest("type_error", location, text)
