"""A server process of our own for the clients to talk to."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

from checks.ports import free_ports
from clients.environment import ENVIRONMENTS, ROOT, end_of

ARTIFACTS = {kind: ROOT / "artifacts" / kind for kind in ("rank", "embed")}
LOG = ENVIRONMENTS / "server.log"

_HOST = "127.0.0.1"
# Reached only by a hang.
_START_S = 300
_ANSWER_S = 60
_STOP_S = 20


class ServerFailed(Exception):
    """The server did not become ready; the message contains the end of its log."""


def serves_the_mock() -> bool:
    """Whether an artifact is missing."""
    return not all((path / "manifest.json").is_file() for path in ARTIFACTS.values())


def caller_variables() -> dict[str, str]:
    """The part of the caller's environment that a child process needs; nothing that changes it."""
    return {name: os.environ[name] for name in ("PATH", "HOME", "TMPDIR") if name in os.environ}


@dataclass(frozen=True)
class Address:
    """A server's addresses: `base_url` for HTTP, `grpc` as host:port."""

    base_url: str
    grpc: str


@contextmanager
def running_server(variables: Mapping[str, str]) -> Iterator[Address]:
    """A ready server with `variables` in its environment. Raises ServerFailed."""
    http, grpc = free_ports(2)
    address = Address(f"http://{_HOST}:{http}", f"{_HOST}:{grpc}")
    process = _start(address, variables)
    try:
        _await_ready(process, address.base_url)
        yield address
    finally:
        process.terminate()
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _start(address: Address, variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
    command = [str(Path(sys.executable).parent / "rerank-serve"), "--host", _HOST]
    model = {"ENABLE_MOCK_INFERENCE": "1"} if serves_the_mock() else {}
    if not model:
        for kind, path in ARTIFACTS.items():
            command += [f"--{kind}", str(path)]
    ports = {
        "NIM_HTTP_API_PORT": address.base_url.rpartition(":")[2],
        "NIM_TRITON_GRPC_PORT": address.grpc.rpartition(":")[2],
        "NIM_TRITON_METRICS_PORT": "0",
    }
    environment = {**caller_variables(), **ports, **model, **variables}
    LOG.parent.mkdir(exist_ok=True)
    with LOG.open("wb") as log:
        return subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=log, stderr=subprocess.STDOUT
        )


def _await_ready(process: subprocess.Popen[bytes], base_url: str) -> None:
    give_up = time.monotonic() + _START_S
    while time.monotonic() < give_up and process.poll() is None:
        try:
            with urlopen(f"{base_url}/v1/health/ready", timeout=_ANSWER_S):
                return
        except OSError:  # urllib's own errors, and broken connections
            time.sleep(0.1)
    status = process.poll()
    how = f"did not become ready in {_START_S} s" if status is None else f"ended with {status}"
    raise ServerFailed(f"the server {how}:\n{end_of(LOG)}")
