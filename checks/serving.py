"""A server process of our own: it is started, waited for, asked, looked at and stopped.

Needs only the standard library until `http` is used: checks/gpu runs where there is no client.
"""

import contextlib
import http.client
import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Self

from checks.ports import free_ports

if TYPE_CHECKING:
    import httpx

ROOT = Path(__file__).resolve().parent.parent
# `rerank-serve`, from the sources of this checkout.
SERVE = "import sys; from server.cli import main; sys.exit(main())"
# Reached only by a hang.
PATIENCE_S = 600.0
_HOST = "127.0.0.1"
# What a server gets of our environment. A GPU that is hidden from us is hidden from it, too.
_INHERITED = ("PATH", "TMPDIR", "CUDA_VISIBLE_DEVICES")
_LOG_BYTES = 1500


class ServerFailed(RuntimeError):
    """A server did not do what was waited for; the message contains the end of its log."""


class Server:
    """A process on free ports of 127.0.0.1; as a context it is killed at the end of the block.

    `settings` are variables beside `environment`, which is almost empty by default: no HOME, and
    warnings are errors. `arguments` are those of the interpreter, by default `rerank-serve`; in
    them {port} stands for the port. `before` goes before the interpreter; `options` are those of
    Popen. With `triton` it has a second port for KServe.
    """

    def __init__(
        self,
        settings: Mapping[str, str],
        *arguments: str,
        environment: Mapping[str, str] | None = None,
        before: Sequence[str] = (),
        triton: bool = False,
        **options: Any,
    ) -> None:
        self.port, self.metrics_port, self.grpc_port, self.triton_port = free_ports(4)
        self.url = f"http://{_HOST}:{self.port}"
        self.metrics_url = f"http://{_HOST}:{self.metrics_port}"
        self.grpc_address = f"{_HOST}:{self.grpc_port}"
        if environment is None:
            environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
            environment["PYTHONWARNINGS"] = "error"
        ports = {
            "NIM_BIND_ADDR": f"{_HOST}:1",  # the next line's port is the one that counts
            "NIM_HTTP_API_PORT": str(self.port),
            "NIM_TRITON_METRICS_PORT": str(self.metrics_port),
            "NIM_TRITON_GRPC_PORT": str(self.grpc_port),
            "NIM_HTTP_TRITON_PORT": str(self.triton_port if triton else 0),
        }
        given = [one.replace("{port}", str(self.port)) for one in arguments or ("-c", SERVE)]
        # Appended to, as it is read meanwhile.
        self._log = tempfile.TemporaryFile("ab+")  # noqa: SIM115 (`close`)
        self.process = subprocess.Popen(
            [*before, sys.executable, *given],
            env={**environment, **ports, **settings},
            **{"cwd": ROOT, "stdout": self._log, "stderr": self._log, **options},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Kill it; its log is gone."""
        if "http" in vars(self):
            self.http.close()
        self.process.kill()
        self.process.wait()
        self._log.close()

    @cached_property
    def http(self) -> "httpx.Client":
        """A client of the API, with a connection for each request. One for all: each new client
        reads the machine's certificates again."""
        import httpx

        alone = httpx.Limits(max_keepalive_connections=0)
        return httpx.Client(base_url=self.url, timeout=PATIENCE_S, limits=alone)

    @property
    def log(self) -> str:
        """What it has written so far."""
        size = os.fstat(self._log.fileno()).st_size
        return os.pread(self._log.fileno(), size, 0).decode(errors="replace")

    def get(self, path: str) -> "httpx.Response":
        """GET a path of the API."""
        return self.http.get(path)

    def rank(self, body: object, **options: Any) -> "httpx.Response":
        """POST a ranking request."""
        return self.http.post("/v1/ranking", json=body, **options)

    def counted(self, sample: str, label: str = "") -> float:
        """The sum of the samples in its metrics that begin so and have the label."""
        lines = [x for x in self.get("/v1/metrics").text.splitlines() if x.startswith(sample)]
        return sum(float(line.split()[-1]) for line in lines if label in line)

    def status(self, path: str) -> int:
        """The status of a GET on a connection of its own; 0 without an answer."""
        connection = http.client.HTTPConnection(_HOST, self.port, timeout=PATIENCE_S)
        with (
            contextlib.closing(connection),
            contextlib.suppress(OSError, http.client.HTTPException),
        ):
            connection.request("GET", path)
            return connection.getresponse().status
        return 0

    def until(self, path: str, status: int) -> bool:
        """Whether GET `path` answers `status` before the process ends or the wait times out."""
        end = time.monotonic() + PATIENCE_S
        while time.monotonic() < end and self.process.poll() is None:
            if self.status(path) == status:
                return True
            time.sleep(0.02)
        return False

    def wait_for(self, path: str, status: int) -> Self:
        """Wait until GET `path` answers `status`. Raises ServerFailed."""
        if not self.until(path, status):
            raise ServerFailed(
                f"{path} never answered {status}, exit status {self.process.poll()}; "
                f"the log ends: {self.log[-_LOG_BYTES:]}"
            )
        return self

    def ready(self) -> Self:
        """Wait until it is ready. Raises ServerFailed."""
        return self.wait_for("/v1/health/ready", 200)

    def wait_until(self, true: Callable[[], object], pause_s: float = 0.02) -> None:
        """Wait for anything else, which is looked at every `pause_s`. Raises ServerFailed, also
        when the process has ended before."""
        end = time.monotonic() + PATIENCE_S
        while not true():
            status = self.process.poll()
            if time.monotonic() > end or (status is not None and not true()):
                raise ServerFailed(
                    f"waited in vain, exit status {status}; the log ends: {self.log[-_LOG_BYTES:]}"
                )
            time.sleep(pause_s)

    def wait_until_deaf(self) -> None:
        """Wait until it takes no more connections: it has been told to stop a while ago."""
        self.wait_until(lambda: not self.status("/v1/health/live"))

    def signal(self, number: int) -> None:
        """Send a signal."""
        self.process.send_signal(number)

    def ends(self) -> int | None:
        """Its exit status; None if it does not end."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self.process.wait(PATIENCE_S)
        return None

    def stop(self) -> int | None:
        """Send SIGTERM, as a container runtime does; returns its exit status."""
        self.signal(signal.SIGTERM)
        return self.ends()

    def descriptors(self) -> int:
        """The number of its open files."""
        return len(os.listdir(self._proc / "fd"))

    def threads(self) -> int:
        """The number of its threads."""
        return len(os.listdir(self._proc / "task"))

    def resident_bytes(self) -> int:
        """Its memory."""
        return self._bytes("VmRSS")

    def peak_bytes(self) -> int:
        """The peak of its memory since its start, or since `forget_peak`."""
        return self._bytes("VmHWM")

    def virtual_bytes(self) -> int:
        """Its address space."""
        return self._bytes("VmSize")

    def forget_peak(self) -> None:
        """Reset the peak to the current memory."""
        (self._proc / "clear_refs").write_text("5")

    @property
    def _proc(self) -> Path:
        return Path(f"/proc/{self.process.pid}")

    def _bytes(self, field: str) -> int:
        lines = (self._proc / "status").read_text().splitlines()
        (found,) = (int(line.split()[1]) << 10 for line in lines if line.startswith(f"{field}:"))
        return found


def script(name: str) -> str:
    """A console command of this environment."""
    return str(Path(sysconfig.get_path("scripts")) / name)


@contextlib.contextmanager
def served(settings: Mapping[str, str] = MappingProxyType({}), **models: Path) -> Iterator[str]:
    """The address of a server on `models` (rank=DIR, embed=DIR, both; none: the mock of both),
    once it is ready, in this process's environment and with its output; `settings` are more
    variables. Raises ServerFailed."""
    given = {
        "NIM_TRITON_METRICS_PORT": "0",
        "NIM_TRITON_GRPC_PORT": "0",
        "NIM_LOG_LEVEL": "WARNING",  # at INFO, polling ready would fill the screen
        **({} if models else {"ENABLE_MOCK_INFERENCE": "1"}),
        **settings,
    }
    paths = [part for kind, path in models.items() for part in (f"--{kind}", str(path.resolve()))]
    with Server(
        given, "-c", SERVE, *paths, environment=os.environ, stdout=None, stderr=None
    ) as server:
        yield server.ready().url
