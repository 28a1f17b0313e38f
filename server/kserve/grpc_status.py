"""From an error to gRPC's status and the words that travel with it."""

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
    """A method that is not served."""

    def __init__(self) -> None:
        super().__init__("found a method that is not served here")


class UnknownService(RequestRefused):
    """A service whose health nobody knows here."""

    def __init__(self) -> None:
        super().__init__("found another service, wanted inference.GRPCInferenceService or no name")


class TooManyWatches(RequestRefused):
    """More streams that watch the server's health than there may be."""

    def __init__(self, found: int) -> None:
        super().__init__(f"found {found} callers that watch already, wanted fewer; ask with Check")


# Statuses that are the server's own fault, as OpenTelemetry's conventions count them.
SERVER_FAULTS = (
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
)
# The first class of an error's ancestry that is in here decides.
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
    TooLate: grpc.StatusCode.RESOURCE_EXHAUSTED,  # sent again it is as late
    Overloaded: grpc.StatusCode.UNAVAILABLE,
    DeadlineExceeded: grpc.StatusCode.DEADLINE_EXCEEDED,
    Unavailable: grpc.StatusCode.UNAVAILABLE,
    ArtifactError: grpc.StatusCode.INTERNAL,
    EngineError: grpc.StatusCode.INTERNAL,
    Exception: grpc.StatusCode.INTERNAL,
}
# How Triton begins its refusals when a queue is full, in this status: nv-ingest sends again what is
# refused in these words, and gives up on everything else.
_QUEUE_FULL = "Exceeds maximum queue size"


def code_of(error: Exception) -> grpc.StatusCode:
    """The status that a call ends with."""
    return next(_CODES[kind] for kind in type(error).__mro__ if kind in _CODES)


def status_message(error: Exception, message: str) -> str:
    """What the caller is told, where HTTP callers are told `message`."""
    full = isinstance(error, Overloaded) and code_of(error) is grpc.StatusCode.UNAVAILABLE
    return f"{_QUEUE_FULL}: {message}" if full else message
