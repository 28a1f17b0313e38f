"""Checks of single fields of a request, for every dialect."""

from collections.abc import Mapping, Sequence
from typing import TypeVar

from server.errors import InvalidRequest

T = TypeVar("T")
Word = TypeVar("Word", bound=str)


def one_of(found: object, known: Sequence[Word], *place: str) -> Word | None:
    """`found` as one of the `known` words; None for None. Raises InvalidRequest for another value
    at `place`."""
    for word in known:
        if word == found:
            return word
    if found is None:
        return None
    raise InvalidRequest("literal_error", place, f"wanted one of {', '.join(known)}")


def merge_synonyms(values: Mapping[str, T | None]) -> T | None:
    """The common value of fields of different dialects that have the same meaning; None if none is
    set. Raises InvalidRequest, which names the later field, if two differ."""
    found: T | None = None
    for name, value in values.items():
        if found is not None and value not in (None, found):
            raise InvalidRequest("value_error", (name,), "found two names of one field that differ")
        found = value if found is None else found
    return found
