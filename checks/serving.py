"""A server of our own on a free port, started as a user would start it."""

import os
import subprocess
import sysconfig
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType

import httpx

from checks.ports import free_port

START_S = 600.0


def script(name: str) -> str:
    """A console command of this environment."""
    return str(Path(sysconfig.get_path("scripts")) / name)


@contextmanager
def served(settings: Mapping[str, str] = MappingProxyType({}), **models: Path) -> Iterator[str]:
    """The address of a server on `models` (rank=DIR, embed=DIR, both; none: the mock of both),
    once it is ready; `settings` are more environment variables."""
    port = free_port()
    environment = os.environ | {
        "NIM_HTTP_API_PORT": str(port),
        "NIM_TRITON_METRICS_PORT": "0",
        "NIM_TRITON_GRPC_PORT": "0",
        "NIM_LOG_LEVEL": "WARNING",  # at INFO, polling ready would fill the screen
        **settings,
    }
    if not models:
        environment["ENABLE_MOCK_INFERENCE"] = "1"
    command = [script("rerank-serve"), "--host", "127.0.0.1"]
    for kind, artifact in models.items():
        command += [f"--{kind}", str(artifact)]
    server = subprocess.Popen(command, env=environment)
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_until_ready(address, server)
        yield address
    finally:
        server.terminate()
        server.wait()


def _wait_until_ready(address: str, server: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_S
    while time.monotonic() < deadline and server.poll() is None:
        try:
            if httpx.get(f"{address}/v1/health/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.2)
    raise SystemExit(f"the server was not ready after {START_S:.0f} s, or ended; see above")
