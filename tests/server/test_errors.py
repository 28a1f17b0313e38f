"""Errors on their way to the caller."""

import gc
import pickle
import weakref
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any, get_args

import grpc
import httpx
import pytest

import server.app  # noqa: F401  # defines every error of the server
from runtime.errors import Blame, BlankInput, InputTooLong, ServingError, TextPlace, TextRejected
from server import errors
from tests.waiting import wait_until

# Status, gRPC's code, the reason of a refusal, whose fault; an error that is not named has those of
# the class above it.
MEANINGS = {
    "ServingError": (500, "INTERNAL", None, "server"),
    "InputRejected": (400, "INVALID_ARGUMENT", None, "caller"),
    "InputTooLong": (422, "INVALID_ARGUMENT", None, "caller"),
    "Unavailable": (503, "UNAVAILABLE", "other", "server"),
    "Overloaded": (503, "UNAVAILABLE", "full", "admission"),
    "TooLate": (503, "RESOURCE_EXHAUSTED", "deadline", "admission"),
    "DeadlineExceeded": (504, "DEADLINE_EXCEEDED", "expired", "server"),
    "ModelClosed": (503, "UNAVAILABLE", "shutting_down", "admission"),
    "OutOfMemory": (503, "UNAVAILABLE", "out_of_memory", "engine"),
    "DeviceLost": (503, "UNAVAILABLE", "device_lost", "engine"),
    "EngineUnreachable": (503, "UNAVAILABLE", "engine_away", "engine"),
    "EngineError": (500, "INTERNAL", None, "engine"),
    "RequestRefused": (400, "INVALID_ARGUMENT", None, "caller"),
    "AuthenticationRequired": (401, "UNAUTHENTICATED", None, "caller"),
    "KindNotServed": (404, "NOT_FOUND", None, "caller"),
    "UnknownModel": (404, "NOT_FOUND", None, "caller"),
    "BodyTooSlow": (408, "DEADLINE_EXCEEDED", None, "caller"),
    "BodyTooLarge": (413, "INVALID_ARGUMENT", None, "caller"),
    "WrongContentType": (415, "INVALID_ARGUMENT", None, "caller"),
    "UnknownCoding": (415, "INVALID_ARGUMENT", None, "caller"),
    "ClientDisconnected": (499, "CANCELLED", None, "disconnect"),
    "NotReady": (503, "UNAVAILABLE", "not_ready", "server"),
    "ReloadInProgress": (503, "UNAVAILABLE", "reloading", "server"),
    "UnknownMethod": (400, "UNIMPLEMENTED", None, "caller"),
    "UnknownService": (400, "NOT_FOUND", None, "caller"),
    "TooManyWatches": (400, "RESOURCE_EXHAUSTED", None, "caller"),
}


def family(kind: type[ServingError] = ServingError) -> Iterator[type[ServingError]]:
    yield kind
    for below in kind.__subclasses__():
        if below.__module__.startswith(("runtime", "server")):
            yield from family(below)


def test_every_class_says_what_its_errors_mean() -> None:
    found = list(family())
    assert MEANINGS.keys() <= {kind.__name__ for kind in found}
    for kind in found:
        named = next(above.__name__ for above in kind.__mro__ if above.__name__ in MEANINGS)
        meaning = (kind.http_status, kind.grpc_code, kind.refusal, kind.blame)
        assert meaning == MEANINGS[named], kind
        assert kind.http_status in {*HTTPStatus, 499}
        assert grpc.StatusCode[kind.grpc_code]
        assert kind.blame in get_args(Blame)
    assert errors.class_of(KeyError()) is ServingError


def test_a_text_is_named_by_its_place() -> None:
    places = [TextPlace("query"), TextPlace("passages", 3), TextPlace("passages", 0, "image")]
    assert [str(place) for place in places] == ["query", "passages[3]", "passages[0].image"]
    error = TextRejected(places[1], "is blank")
    assert (error.field, error.index, error.complaint) == ("passages", 3, "is blank")
    assert str(error) == "passages[3] is blank"


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


@pytest.mark.parametrize(
    "error", [BlankInput(TextPlace("passages", 3)), InputTooLong(9, 8), ServingError("text")]
)
def test_an_error_survives_another_process(error: ServingError) -> None:
    found = pickle.loads(pickle.dumps(error))
    assert (type(found), str(found), vars(found)) == (type(error), str(error), vars(error))
