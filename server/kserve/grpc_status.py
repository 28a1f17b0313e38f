"""The gRPC status and message of an error."""

import grpc

from runtime.errors import (
    ArtifactError,
    DeadlineExceeded,
    EngineError,
    InputRejected,
    Overloaded,
    TooLate,
    Unavailable,
)
from server.errors import (
    AuthenticationRequired,
    BodyTooSlow,
    ClientDisconnected,
    InvalidRequest,
    KindNotServed,
    RequestRefused,
    UnknownModel,
)


class UnknownMethod(RequestRefused):
    """A method that is not served here."""

    def __init__(self) -> None:
        super().__init__("found a method that is not served here")


class UnknownService(RequestRefused):
    """A service whose health is not known here."""

    def __init__(self) -> None:
        super().__init__("found another service, wanted inference.GRPCInferenceService or no name")


class TooManyWatches(RequestRefused):
    """Too many Watch streams of the server's health."""

    def __init__(self, found: int) -> None:
        super().__init__(f"found {found} Watch streams already, wanted fewer; use Check instead")


# Statuses that are the server's own fault, as OpenTelemetry's conventions count them.
SERVER_FAULTS = (
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
)
# The first class in an error's method resolution order that has a row decides.
_CODES: dict[type[BaseException], grpc.StatusCode] = {
    InvalidRequest: grpc.StatusCode.INVALID_ARGUMENT,
    InputRejected: grpc.StatusCode.INVALID_ARGUMENT,
    AuthenticationRequired: grpc.StatusCode.UNAUTHENTICATED,
    KindNotServed: grpc.StatusCode.NOT_FOUND,
    UnknownModel: grpc.StatusCode.NOT_FOUND,
    UnknownService: grpc.StatusCode.NOT_FOUND,
    TooManyWatches: grpc.StatusCode.RESOURCE_EXHAUSTED,
    BodyTooSlow: grpc.StatusCode.DEADLINE_EXCEEDED,
    ClientDisconnected: grpc.StatusCode.CANCELLED,
    UnknownMethod: grpc.StatusCode.UNIMPLEMENTED,
    RequestRefused: grpc.StatusCode.INVALID_ARGUMENT,
    TooLate: grpc.StatusCode.RESOURCE_EXHAUSTED,  # a retry would be late as well
    Overloaded: grpc.StatusCode.UNAVAILABLE,
    DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
    ArtifactError: grpc.StatusCode.INTERNAL,
    EngineError: grpc.StatusCode.INTERNAL,
    Exception: grpc.StatusCode.INTERNAL,
}
# Triton's message for a full queue, with this status: nv-ingest retries on these words only.
_QUEUE_FULL = "Exceeds maximum queue size"


def code_of(error: Exception) -> grpc.StatusCode:
    """The status of a call that ended with `error`."""
    return next(_CODES[kind] for kind in type(error).__mro__ if kind in _CODES)


def status_message(error: Exception, message: str) -> str:
    """The message of a call that ended with `error`; `message` is what HTTP callers get."""
    full = isinstance(error, Overloaded) and code_of(error) is grpc.StatusCode.UNAVAILABLE
    return f"{_QUEUE_FULL}: {message}" if full else message
