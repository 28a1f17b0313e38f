"""Flags and whole numbers in pydantic's lax mode for JSON, as servers built with it read them.

A flag may be true, 1, 1.0, or one of the words below in any case. A whole number may also be 5.0,
true (1), or a text such as "5", " +5.0 " or "1_000". Numbers are never turned into texts.
"""

import re
from abc import ABC
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import msgspec
from msgspec import Meta

T = TypeVar("T")

_WORDS = {
    **dict.fromkeys(("1", "on", "t", "true", "y", "yes"), True),
    **dict.fromkeys(("0", "off", "f", "false", "n", "no"), False),
}
_BLANKS = r"[^\S\x1c-\x1f]*"  # Unicode white space
_WHOLE = re.compile(rf"{_BLANKS}([+-]?[0-9]+(?:_[0-9]+)*)(?:\.0+)?{_BLANKS}")
# The limit of pydantic and Python.
_MOST_DIGITS = 4300
_FLOAT_BOUND = 2.0**63

if TYPE_CHECKING:
    Flag = bool
    Whole = int
else:
    # msgspec calls `dec_hook` for types that it does not know. The hook returns a plain bool or
    # int, which must be an instance of the class, hence the ABCs.
    class _Flag(ABC):  # noqa: B024
        """A bool."""

    class _Whole(ABC):  # noqa: B024
        """An int."""

    _Flag.register(bool)
    _Whole.register(int)
    Flag = Annotated[_Flag, Meta(extra_json_schema={"type": "boolean"})]
    Whole = Annotated[_Whole, Meta(extra_json_schema={"type": "integer"})]


# Whole numbers of 1 or more, for the documentation; surfaces check them with their own messages.
_LEAST_ONE = Meta(extra_json_schema={"minimum": 1})
Positive = Annotated[Whole, _LEAST_ONE]
StrictPositive = Annotated[int, _LEAST_ONE]


def lax_decoder(kind: type[T]) -> "msgspec.json.Decoder[T]":
    """A decoder of `kind`, whose fields may be Flag and Whole."""
    return msgspec.json.Decoder(kind, dec_hook=read_lax)


def flag(value: object) -> bool:
    """Read `value` as a flag. Raises ValueError."""
    if isinstance(value, int | float) and value in (0, 1):
        return value == 1
    if isinstance(value, str) and (flag_value := _WORDS.get(value.lower())) is not None:
        return flag_value
    raise ValueError("wanted true or false")


def whole(value: object) -> int:
    """Read `value` as a whole number. Raises ValueError."""
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < _FLOAT_BOUND:
        return int(value)
    if isinstance(value, str) and (found := _WHOLE.fullmatch(value)):
        digits = found[1]
        if len(digits) <= _MOST_DIGITS:
            return int(digits)
    raise ValueError("wanted a whole number")


def read_lax(kind: Any, value: object) -> bool | int:
    """msgspec's `dec_hook` for Flag and Whole. Raises ValueError."""
    return whole(value) if issubclass(int, kind) else flag(value)
