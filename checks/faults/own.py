"""Our own servers, which the suite may kill, starve and inspect."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

from checks.ports import free_ports

# Reached only by a hang.
START_S = 120.0
# The same as `rerank-serve`, from the sources in the current directory.
_SERVE = "import sys; from server.cli import main; sys.exit(main())"


class OwnServer:
    """A process of `rerank-serve` with an almost empty environment: no HOME, warnings are errors.

    `http` is a client that opens a connection for each request.
    """

    def __init__(self, folder: Path, given: dict[str, str], **options: Any) -> None:
        self.port, self.metrics_port, self.grpc_port = free_ports(3)
        self.url = f"http://127.0.0.1:{self.port}"
        environment = {
            "PATH": os.environ["PATH"],
            "PYTHONWARNINGS": "error",
            "NIM_HTTP_API_PORT": str(self.port),
            "NIM_TRITON_METRICS_PORT": str(self.metrics_port),
            "NIM_TRITON_GRPC_PORT": str(self.grpc_port),
            **given,
        }
        self._log_file = folder / f"server-{self.port}.log"
        command = options.pop("before", [])
        program = options.pop("program", [_SERVE])
        # One client for all: each new one reads the machine's certificates again.
        alone = httpx.Limits(max_keepalive_connections=0)
        self.http = httpx.Client(base_url=self.url, timeout=60, limits=alone)
        with self._log_file.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, sys.executable, "-c", *program, "--host", "127.0.0.1"],
                env=environment,
                stdout=log,
                stderr=log,
                **options,
            )

    @property
    def log(self) -> str:
        """Its log so far."""
        return self._log_file.read_text(errors="replace")

    def status(self, path: str) -> int:
        """The status of a GET; 0 without an answer."""
        with contextlib.suppress(httpx.TransportError):
            return self.http.get(path, timeout=10).status_code
        return 0

    def until(self, path: str, status: int) -> bool:
        """Whether GET `path` answers `status` before the process ends or the wait times out."""
        end = time.monotonic() + START_S
        while time.monotonic() < end and self.process.poll() is None:
            if self.status(path) == status:
                return True
            time.sleep(0.05)
        return False

    def ready(self) -> "OwnServer":
        """Wait until it is ready; returns self. Raises RuntimeError with the end of its log."""
        if not self.until("/v1/health/ready", 200):
            raise RuntimeError(f"a server of our own did not start: {self.log[-500:]}")
        return self

    def signal(self, number: int) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def ends(self, within_s: float = START_S) -> int | None:
        """Its exit status, None while it is running."""
        try:
            return self.process.wait(within_s)
        except subprocess.TimeoutExpired:
            return None

    def descriptors(self) -> int:
        """The number of its open files."""
        return len(os.listdir(f"/proc/{self.process.pid}/fd"))

    def threads(self) -> int:
        """The number of its threads."""
        return len(os.listdir(f"/proc/{self.process.pid}/task"))

    def resident_bytes(self) -> int:
        """Its memory."""
        fields = Path(f"/proc/{self.process.pid}/statm").read_text().split()
        return int(fields[1]) * os.sysconf("SC_PAGE_SIZE")

    def peak_bytes(self) -> int:
        """The peak of its memory since its start, or since `forget_peak`."""
        lines = Path(f"/proc/{self.process.pid}/status").read_text().splitlines()
        (peak,) = (int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM:"))
        return peak

    def forget_peak(self) -> None:
        """Reset the peak to the current memory."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5")

    def close(self) -> None:
        """Kill it."""
        self.http.close()
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGKILL)
        self.process.wait()


@contextlib.contextmanager
def started(folder: Path, given: dict[str, str], **options: Any) -> Iterator[OwnServer]:
    """A server that is stopped after the block; it may not be ready yet."""
    server = OwnServer(folder, given, **options)
    try:
        yield server
    finally:
        server.close()
