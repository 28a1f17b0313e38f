"""The faults of `make test-faults` that are quick and need no particular speed, on our server.

The mock answers; where a fault needs a model of its own, it brings it.
"""

from collections.abc import Iterator
from typing import Any

import pytest

from checks.faults.__main__ import FAULTS
from checks.faults.fault import Fault
from checks.faults.target import Target
from tests.server.conftest import BODY_LIMIT_BYTES, Server

MOCK = {"ENABLE_MOCK_INFERENCE": "1"}
# Those of groups 8 to 11 that start a server, whose kind no faster test covers.
STARTS = {
    "64 file descriptors",
    "NIM_REQUIRE_AUTH=true",
    "the port is taken",
    "the metrics port is taken",
    "live at once, ready after an inference",
    "SIGTERM while the model loads",
    "SIGINT, idle",
    "SIGKILL leaves no orphans",
    "SIGTERM, and a request is finished",
    "SIGTERM, then SIGINT",
    "SIGHUP with a good and a bad model",
    "SIGPIPE",
    "an engine that hangs",
}
# Thousands of requests, or many megabytes; smaller ones are in test_auth.py, surfaces/ and here.
HEAVY = {
    "gzip bomb of 256 MiB",
    "100000 chunks of one byte",
    "every route asks for the key",
    "gRPC asks for the key",
    "a list of hosts",
    "labels are bounded",
    "counters add up",
    "scraped under load",
    "gRPC, a message over the limit",
    "gRPC, a bomb in gzip",
    "gRPC, 300 calls without a message",
    "no URL of a request is fetched",
}
# Not for a server of the mock with small limits and without a key.
NOT_HERE = {
    "1000000 equal characters",
    "10 MB",
    "a pair alone and in company",
    "the given key counts",
}
GROUPS = {1, 2, 3, 4, 5, 6, 12, 13, 14, 16}


def chosen() -> list[Any]:
    return [
        pytest.param(
            fault,
            id=f"{fault.group} {fault.name}",
            marks=[pytest.mark.heavy] if fault.name in HEAVY else [],
        )
        for fault in FAULTS
        if fault.name in STARTS or _group(fault) in GROUPS
        if fault.name not in NOT_HERE
    ]


def _group(fault: Fault) -> int:
    return int(fault.group.split()[0])


@pytest.fixture(scope="module")
def target(mock_server: Server) -> Iterator[Target]:
    target = Target(
        mock_server.url,
        body_limit_bytes=BODY_LIMIT_BYTES,
        max_passages=64,
        grpc=mock_server.grpc_address,
        metrics=f"{mock_server.metrics_url}/metrics",
        model=MOCK,
        own=mock_server,
        timed=False,
    )
    yield target
    target.http.close()


@pytest.mark.parametrize("fault", chosen())
def test_a_fault(target: Target, fault: Fault) -> None:
    fault.run(target)
    assert target.still_answers()
