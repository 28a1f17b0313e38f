"""The server's own errors, and what a caller may learn of an error.

An error's class carries its statuses (runtime.errors). `classify_error` makes a `Failure`, from
which each surface makes its own error body. Messages never contain request text. Messages of
unexpected errors go to the log only.
"""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from http import HTTPStatus
from typing import ClassVar, NamedTuple

from litestar import Request, Response
from litestar.datastructures import State
from litestar.exceptions import HTTPException
from litestar.types import Scope

from runtime.errors import (
    Blame,
    DeadlineExceeded,
    EngineError,
    InputRejected,
    InputTooLong,
    NoPassages,
    Overloaded,
    ServingError,
    Unavailable,
)
from server.settings import Settings

_log = logging.getLogger(__name__)

AnyRequest = Request[object, object, State]


class RequestRefused(ServingError):
    """The request cannot be served as it is; raised by the server, not by the model. `headers` go
    with the HTTP answer."""

    http_status = 400
    grpc_code = "INVALID_ARGUMENT"
    blame: ClassVar[Blame] = "caller"
    headers: Mapping[str, str] = {}


class InvalidRequest(RequestRefused):
    """The body is not a valid request. `location` is the path to the problem, as in ("passages", 3,
    "text"); `problem` is its kind in one word."""

    def __init__(self, problem: str, location: tuple[str | int, ...], message: str) -> None:
        self.problem = problem
        self.location = location
        steps = [f"[{step}]" if isinstance(step, int) else f".{step}" for step in location]
        place = "".join(steps).lstrip(".") or "the body"
        super().__init__(f"{place}: {message}")


class AuthenticationRequired(RequestRefused):
    """No bearer, or not an accepted one."""

    http_status = 401
    grpc_code = "UNAUTHENTICATED"
    headers: Mapping[str, str] = {"www-authenticate": "Bearer"}
    message = "found no accepted key, wanted the header Authorization: Bearer <key>"


class KindNotServed(RequestRefused):
    """A request for a kind of model that this process does not serve."""

    http_status = 404
    grpc_code = "NOT_FOUND"

    def __init__(self, what: str, option: str) -> None:
        super().__init__(
            f"this server serves no {what}; start it with {option} DIR, or ask one that does"
        )


class UnknownModel(RequestRefused):
    """A model name that is not served here."""

    http_status = 404
    grpc_code = "NOT_FOUND"

    def __init__(self, served_name: str) -> None:
        super().__init__(
            f"found a model that is not served here, wanted {served_name}; "
            "GET /v1/models lists what is served"
        )


class BodyTooLarge(RequestRefused):
    """More bytes than NIM_HTTP_BODY_LIMIT_BYTES."""

    http_status = 413
    headers: Mapping[str, str] = {"connection": "close"}

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(
            f"found a body of more than {limit_bytes} bytes, which is the most that this server "
            "takes; send fewer texts or images in one request"
        )


class BodyTooSlow(RequestRefused):
    """The body did not arrive in time."""

    http_status = 408
    grpc_code = "DEADLINE_EXCEEDED"
    headers: Mapping[str, str] = {"connection": "close"}

    def __init__(self, timeout_s: float) -> None:
        super().__init__(f"the request's body did not arrive within {timeout_s:g} seconds")


class WrongContentType(RequestRefused):
    """A body that is not JSON in UTF-8."""

    http_status = 415


class UnknownCoding(RequestRefused):
    """A body that is compressed with another coding than those `taken`."""

    http_status = 415

    def __init__(self, taken: tuple[str, ...]) -> None:
        codings = ", ".join(taken)
        self.headers = {"accept-encoding": codings}  # as RFC 9110 12.5.3 asks
        super().__init__(
            f"found a body with another Content-Encoding, wanted one of {codings}, once, or none"
        )


class ClientDisconnected(RequestRefused):
    """The client disconnected; nobody reads the answer."""

    http_status = 499  # as nginx logs it; never sent
    grpc_code = "CANCELLED"
    blame = "disconnect"
    message = "the client closed the connection"


class NotReady(Unavailable):
    """The model is not loaded yet."""

    refusal = "not_ready"
    message = "the model is not ready yet; GET /v1/health/ready says when it is"


class ReloadInProgress(Unavailable):
    """Another reload is running."""

    refusal = "reloading"
    message = "a model is being reloaded, and one reload runs at a time; send the request again"


# For the documentation: what reading and decoding a body may raise, and what asking a model may.
BODY_ERRORS = (
    InvalidRequest,
    BodyTooSlow,
    BodyTooLarge,
    WrongContentType,
    UnknownCoding,
    Overloaded,
    Unavailable,
)
MODEL_ERRORS = (
    NoPassages,
    InputTooLong,
    KindNotServed,
    UnknownModel,
    Unavailable,
    DeadlineExceeded,
    EngineError,
    ServingError,
)

_HINTS = {
    404: "there is no such route here",
    405: "this route does not take this method",
}


@dataclass(frozen=True)
class Failure:
    """What a caller may learn of an error of type `kind`. `location` and `problem` are set for
    invalid requests only."""

    status: int
    message: str
    problem: str | None = None
    location: tuple[str | int, ...] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    kind: type[Exception] = Exception


class ErrorBody(NamedTuple):
    """A failure in a surface's format: its status and its JSON error body."""

    status: int
    body: bytes


ErrorFormat = Callable[[Failure], ErrorBody]


def class_of(error: BaseException) -> type[ServingError]:
    """The class whose attributes say what `error` means: its own, or the root's for an unexpected
    one."""
    return type(error) if isinstance(error, ServingError) else ServingError


def blame_of(error: BaseException) -> Blame:
    """Whose fault `error` was; a cancelled task's client has gone."""
    return "disconnect" if isinstance(error, asyncio.CancelledError) else class_of(error).blame


def classify_error(error: Exception, settings: Settings) -> Failure:
    """Classify `error`: its status, message and headers for the caller."""
    if isinstance(error, HTTPException):
        return _routing_failure(error)
    status = status_of(type(error), settings)
    if status == HTTPStatus.INTERNAL_SERVER_ERROR:
        return Failure(status, "the server failed to answer; its log says why", kind=type(error))
    failure = Failure(status, str(error), kind=type(error))
    if isinstance(error, InvalidRequest):
        return replace(failure, problem=error.problem, location=error.location)
    if isinstance(error, InputRejected) and not isinstance(error, InputTooLong):
        return replace(failure, problem="value_error")
    if isinstance(error, Unavailable):
        wait_s = max(1, round(error.retry_after_s))
        return replace(failure, headers={"retry-after": str(wait_s)})
    if isinstance(error, RequestRefused):
        return replace(failure, headers=error.headers)
    return failure


def exception_handler(
    error_format_of: Callable[[Scope], ErrorFormat],
    settings: Settings,
    count: Callable[[Exception], None],
) -> Callable[[AnyRequest, Exception], Response[bytes]]:
    """A Litestar exception handler that answers with the error body of the request's surface. It
    calls `count`, a callback, with every error."""

    def handler(request: AnyRequest, error: Exception) -> Response[bytes]:
        count(error)
        log_failure(error, settings)
        failure = classify_error(error, settings)
        drop_tracebacks(error)
        answer = error_format_of(request.scope)(failure)
        return Response(
            answer.body,
            status_code=answer.status,
            media_type="application/json",
            headers=failure.headers,
        )

    return handler


def drop_tracebacks(error: BaseException | None) -> None:
    """Drop the tracebacks of `error` and its causes after the answer. They form cycles with
    futures, which would keep a request's texts in memory until the next garbage collection."""
    while error is not None and error.__traceback__ is not None:
        error.__traceback__ = None
        error = error.__cause__ or error.__context__


def log_failure(error: Exception, settings: Settings) -> None:
    """Log failures of the server itself, whose messages the caller does not get."""
    if isinstance(error, HTTPException) and error.status_code < HTTPStatus.INTERNAL_SERVER_ERROR:
        return
    if isinstance(error, EngineError):
        _log.error("%s: %s", type(error).__name__, error)
    elif status_of(type(error), settings) == HTTPStatus.INTERNAL_SERVER_ERROR:
        _log.error("unexpected %s", type(error).__name__, exc_info=error)


def status_of(kind: type[Exception], settings: Settings) -> int:
    """The HTTP status of errors of class `kind`: its own, or what a setting says."""
    if issubclass(kind, HTTPException):
        return kind.status_code
    if issubclass(kind, InputTooLong):
        return settings.too_long_status
    if issubclass(kind, Overloaded):
        return settings.overload_status
    return kind.http_status if issubclass(kind, ServingError) else ServingError.http_status


def _routing_failure(error: HTTPException) -> Failure:
    status = error.status_code
    message = _HINTS.get(status, HTTPStatus(status).phrase.lower())
    return Failure(status, message, headers=dict(error.headers or {}), kind=type(error))
