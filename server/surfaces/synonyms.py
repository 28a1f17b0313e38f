"""Several fields that say one thing, as dialects that share a path call it each by a name of its
own."""

from collections.abc import Mapping
from typing import TypeVar

from server.errors import InvalidRequest

T = TypeVar("T")


def merge_synonyms(values: Mapping[str, T | None]) -> T | None:
    """What the fields say that say anything; None where none does. Raises InvalidRequest, which names the
    later one, where two differ."""
    found: T | None = None
    for name, value in values.items():
        if found is not None and value not in (None, found):
            raise InvalidRequest("value_error", (name,), "found two names of one field that differ")
        found = value if found is None else found
    return found
