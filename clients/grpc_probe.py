"""A Kubernetes `grpc:` probe: grpc.health.v1's Check as kubelet calls it, without a key."""

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from clients.check import assert_says, grpc_address, main

_SERVING = health_pb2.HealthCheckResponse.SERVING
# A probe's defaults: seconds for a call, and failures that count.
_TIMEOUT_S = 1
_FAILURES = 3
_LATE = (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE)
_USER_AGENT = ("grpc.primary_user_agent", "kube-probe/1.34")


def _probe(service: str) -> int:
    """The first status in three calls that is not late, each on a new connection."""
    for left in reversed(range(_FAILURES)):
        with grpc.insecure_channel(grpc_address(), [_USER_AGENT]) as channel:
            asked = health_pb2.HealthCheckRequest(service=service)
            try:
                return health_pb2_grpc.HealthStub(channel).Check(asked, timeout=_TIMEOUT_S).status
            except grpc.RpcError as error:
                if error.code() not in _LATE or not left:
                    raise
    raise AssertionError("no call was made")


def server(_: str) -> None:
    """Check of no service, as manifests without `service` ask"""
    assert _probe("") == _SERVING


def service(_: str) -> None:
    """Check of KServe's service"""
    assert _probe("inference.GRPCInferenceService") == _SERVING


def unknown(_: str) -> None:
    """Check of a service that is not there: NOT_FOUND"""
    assert_says(lambda: _probe("no.such.Service"), "StatusCode.NOT_FOUND")


def watched(_: str) -> None:
    """Watch begins with the present status"""
    with grpc.insecure_channel(grpc_address(), [_USER_AGENT]) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == _SERVING
        watch.cancel()


if __name__ == "__main__":
    main(server, service, unknown, watched)
