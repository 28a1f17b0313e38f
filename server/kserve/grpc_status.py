"""The gRPC status and message of an error."""

import grpc

from server.errors import RequestRefused, class_of


class UnknownMethod(RequestRefused):
    """A method that is not served here."""

    grpc_code = "UNIMPLEMENTED"
    message = "found a method that is not served here"


class UnknownService(RequestRefused):
    """A service whose health is not known here."""

    grpc_code = "NOT_FOUND"
    message = "found another service, wanted inference.GRPCInferenceService or no name"


class TooManyWatches(RequestRefused):
    """Too many Watch streams of the server's health."""

    grpc_code = "RESOURCE_EXHAUSTED"

    def __init__(self, found: int) -> None:
        super().__init__(f"found {found} Watch streams already, wanted fewer; use Check instead")


# Statuses that are the server's own fault, as OpenTelemetry's conventions count them.
SERVER_FAULTS = (
    grpc.StatusCode.INTERNAL,
    grpc.StatusCode.UNAVAILABLE,
    grpc.StatusCode.DEADLINE_EXCEEDED,
)
# Triton's message for a full queue: nv-ingest retries on these words only.
_QUEUE_FULL = "Exceeds maximum queue size"


def code_of(error: Exception) -> grpc.StatusCode:
    """The status of a call that ended with `error`."""
    return grpc.StatusCode[class_of(error).grpc_code]


def status_message(error: Exception, message: str) -> str:
    """The message of a call that ended with `error`; `message` is what HTTP callers get."""
    return f"{_QUEUE_FULL}: {message}" if class_of(error).refusal == "full" else message
