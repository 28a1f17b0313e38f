"""Synonyms: fields of different dialects on one path that have the same meaning."""

from collections.abc import Mapping
from typing import TypeVar

from server.errors import InvalidRequest

T = TypeVar("T")


def merge_synonyms(values: Mapping[str, T | None]) -> T | None:
    """The common value of synonymous fields; None if none is set. Raises InvalidRequest, which
    names the later field, if two differ."""
    found: T | None = None
    for name, value in values.items():
        if found is not None and value not in (None, found):
            raise InvalidRequest("value_error", (name,), "found two names of one field that differ")
        found = value if found is None else found
    return found
