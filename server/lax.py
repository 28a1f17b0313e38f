"""Flags and whole numbers as servers built with pydantic read them: its lax mode for JSON.

A flag may come as true, 1, 1.0, or one of the words below in any case; a whole number also as 5.0,
true (1), or a text such as "5", " +5.0 " or "1_000". Texts are never made of numbers.
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
_BLANKS = r"[^\S\x1c-\x1f]*"  # what Unicode calls white space
_WHOLE = re.compile(rf"{_BLANKS}([+-]?[0-9]+(?:_[0-9]+)*)(?:\.0+)?{_BLANKS}")
# As many as pydantic and Python take.
_MOST_DIGITS = 4300
_FLOAT_BOUND = 2.0**63

if TYPE_CHECKING:
    Flag = bool
    Whole = int
else:
    # msgspec hands over what stands for a type that it does not know. The value that comes back
    # is a plain bool or int, which such a class has to own up to.
    class _Flag(ABC):  # noqa: B024
        """A bool."""

    class _Whole(ABC):  # noqa: B024
        """An int."""

    _Flag.register(bool)
    _Whole.register(int)
    Flag = Annotated[_Flag, Meta(extra_json_schema={"type": "boolean"})]
    Whole = Annotated[_Whole, Meta(extra_json_schema={"type": "integer"})]


# Whole numbers of 1 or more, in the documentation: surfaces check them in words of their own.
_LEAST_ONE = Meta(extra_json_schema={"minimum": 1})
Positive = Annotated[Whole, _LEAST_ONE]
StrictPositive = Annotated[int, _LEAST_ONE]


def lax_decoder(kind: type[T]) -> "msgspec.json.Decoder[T]":
    """A decoder of `kind`, whose fields may be Flag and Whole."""
    return msgspec.json.Decoder(kind, dec_hook=_read)


def flag(value: object) -> bool:
    """What `value` says. Raises ValueError for what is no flag."""
    if isinstance(value, int | float) and value in (0, 1):
        return value == 1
    if isinstance(value, str) and (flag_value := _WORDS.get(value.lower())) is not None:
        return flag_value
    raise ValueError("wanted true or false")


def whole(value: object) -> int:
    """The whole number in `value`. Raises ValueError for what is none."""
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float) and value.is_integer() and abs(value) < _FLOAT_BOUND:
        return int(value)
    if isinstance(value, str) and (found := _WHOLE.fullmatch(value)):
        digits = found[1]
        if len(digits) <= _MOST_DIGITS:
            return int(digits)
    raise ValueError("wanted a whole number")


def _read(kind: Any, value: object) -> bool | int:
    return whole(value) if issubclass(int, kind) else flag(value)
