"""Several fields that say one thing, as dialects that share a path call it each by a name of its
own."""

from collections.abc import Mapping
from typing import TypeVar

from server.errors import NotValid

T = TypeVar("T")


def agreed(said: Mapping[str, T | None]) -> T | None:
    """What the fields say that say anything; None where none does. Raises NotValid, which names the
    later one, where two differ."""
    found: T | None = None
    for name, value in said.items():
        if found is not None and value not in (None, found):
            raise NotValid("value_error", (name,), "found two names of one field that differ")
        found = value if found is None else found
    return found
