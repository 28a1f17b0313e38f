"""NIM's error body, the default: for paths of no surface, and for failures before the router."""

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, UnsetType

from server.errors import ErrorBody, Failure


class NimError(msgspec.Struct):
    """Both of NIM's error bodies; validation errors have no `error`."""

    message: str
    detail: dict[str, Any]
    type: str
    error: str | UnsetType = UNSET
    object: str = "error"


def nim_error(failure: Failure) -> NimError:
    """The one of NIM's two error bodies that fits.

    `message` and `error` both contain the text: Astra and langchain read `message`, older clients
    of the hosted service read `error`. `detail` must not be null for langchain.
    """
    message = failure.message
    if failure.problem is None:
        return NimError(message, {}, "invalid_request_error", error=message)
    place = ["body", *failure.location]
    detail = {"type": failure.problem, "loc": place, "msg": message}
    return NimError(message, detail, "request_validation_error")


def error_body(failure: Failure) -> Annotated[ErrorBody, NimError]:
    """The encoded `nim_error`."""
    return ErrorBody(failure.status, msgspec.json.encode(nim_error(failure)))
