"""A Kubernetes `grpc:` probe: grpc.health.v1's Check as kubelet calls it, without a key."""

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from clients.check import Server, assert_says

_SERVING = health_pb2.HealthCheckResponse.SERVING
# A probe's defaults: seconds for a call, and failures that count.
_TIMEOUT_S = 1
_FAILURES = 3
_LATE = (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.UNAVAILABLE)
_USER_AGENT = ("grpc.primary_user_agent", "kube-probe/1.34")


def _probe(server: Server, service: str) -> int:
    """The first status in three calls that is not late, each on a new connection."""
    for left in reversed(range(_FAILURES)):
        with grpc.insecure_channel(server.grpc, [_USER_AGENT]) as channel:
            asked = health_pb2.HealthCheckRequest(service=service)
            try:
                return health_pb2_grpc.HealthStub(channel).Check(asked, timeout=_TIMEOUT_S).status
            except grpc.RpcError as error:
                if error.code() not in _LATE or not left:
                    raise
    raise AssertionError("no call was made")


def whole(server: Server) -> None:
    """Check of no service, as manifests without `service` ask"""
    assert _probe(server, "") == _SERVING


def service(server: Server) -> None:
    """Check of KServe's service"""
    assert _probe(server, "inference.GRPCInferenceService") == _SERVING


def unknown(server: Server) -> None:
    """Check of a service that is not there: NOT_FOUND"""
    assert_says(lambda: _probe(server, "no.such.Service"), "StatusCode.NOT_FOUND")


def watched(server: Server) -> None:
    """Watch begins with the present status"""
    with grpc.insecure_channel(server.grpc, [_USER_AGENT]) as channel:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        assert next(watch).status == _SERVING
        watch.cancel()
