"""Errors on their way to the caller."""

import gc
import weakref
from typing import Any

import httpx
import pytest

from server import errors
from tests.waiting import wait_until


def test_what_an_error_went_through_is_not_kept(
    client: httpx.Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Futures and the errors that they hold keep each other, and the texts of the request."""
    logged: list[Any] = []
    monkeypatch.setattr(errors, "log_failure", lambda error, _: logged.append(weakref.ref(error)))
    body = {"query": {"text": "q"}, "passages": [{"text": "x" * 1000}]}
    gc.collect()
    gc.disable()
    try:
        assert client.post("/v1/ranking", json=body).status_code == 422
        wait_until(lambda: logged[0]() is None)
    finally:
        gc.enable()


def test_causes_that_go_in_a_circle_are_released_too() -> None:
    first, second = ValueError(), KeyError()
    for error in (first, second):
        try:
            raise error
        except (ValueError, KeyError):
            pass
    first.__cause__, second.__cause__ = second, first
    errors.drop_tracebacks(first)
    assert first.__traceback__ is second.__traceback__ is None
    errors.drop_tracebacks(None)
