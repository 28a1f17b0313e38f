"""Launchers start an endpoint, with Docker or as a local process."""

import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path

import httpx
import msgspec

from recipe.config import DeployConfig
from recipe.errors import BadConfig, OutputRefused, StageFailed
from recipe.processes import Started, read_started, write_started
from recipe.progress import Log

ENDPOINT_FILE = "endpoint.json"
# Identifies the server's process; a pid alone may have been reused.
PROCESS_FILE = "server.pid"
_RECIPE, _OWNER = "open-rerank.recipe", "open-rerank.output"
_NAME = "rerank"
_LOG_LINES = 20
_STOP_S = 30.0
_READY_PATH = "/v1/health/ready"


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """endpoint.json: the endpoint of a detached run, and how to stop it.

    `handle` is a process id or a container's name.
    """

    url: str
    launcher: str
    handle: str
    stop: str


def detached_endpoint(folder: Path) -> Record | None:
    """The endpoint that a detached run in `folder` left running; None when none runs."""
    try:
        record = msgspec.json.decode((folder / ENDPOINT_FILE).read_bytes(), type=Record)
    except (FileNotFoundError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    if record.launcher == "process":
        left = read_started(folder / PROCESS_FILE)
        return record if left is not None and record.handle == str(left.pid) else None
    return record if shutil.which("docker") and _is_running(record.handle) else None


@dataclass
class Endpoint(ABC):
    """A server that answers, or will answer, at `url`."""

    url: str

    @abstractmethod
    def is_alive(self) -> bool:
        """Whether it is still running."""

    @abstractmethod
    def last_lines(self) -> str:
        """The end of its log."""

    @abstractmethod
    def wait(self) -> None:
        """Wait until it ends by itself, which is a failure. Raises StageFailed."""

    @abstractmethod
    def stop(self) -> None:
        """Stop it and wait until it has ended; does nothing when it has ended."""

    @abstractmethod
    def stop_command(self) -> str:
        """The shell command that stops it."""

    @abstractmethod
    def record(self) -> Record:
        """For endpoint.json."""

    def wait_until_ready(self, timeout_s: float, interval_s: float) -> None:
        """Poll its health until it is ready. Raises StageFailed when it ends or on timeout."""
        deadline = time.monotonic() + timeout_s
        while not self._is_ready():
            if not self.is_alive():
                raise StageFailed(
                    f"the server ended before it was ready; its last lines:\n{self.last_lines()}"
                )
            left_s = deadline - time.monotonic()
            if left_s <= 0:
                raise StageFailed(
                    f"the server was not ready after {timeout_s:.0f} s; raise "
                    f"health_check_timeout if it is only slow to load. Its last lines:\n"
                    f"{self.last_lines()}"
                )
            time.sleep(min(interval_s, left_s))

    def _is_ready(self) -> bool:
        try:
            return httpx.get(self.url + _READY_PATH, timeout=5.0).is_success
        except httpx.HTTPError:
            return False


class Launcher(ABC):
    """Starts an endpoint for one artifact."""

    @abstractmethod
    def check(self) -> None:
        """Raise BadConfig or OutputRefused for problems that would make `start` fail."""

    @abstractmethod
    def command_line(self) -> str:
        """The command line that `start` runs, without secrets."""

    @abstractmethod
    def start(self, log: Log) -> Endpoint:
        """Start it, after stopping an earlier one of this recipe. Raises StageFailed."""


class DockerLauncher(Launcher):
    """`docker run` of an image that takes NIM_CUSTOM_MODEL."""

    def __init__(
        self,
        settings: DeployConfig,
        model_dir: Path,
        log_file: Path,
        max_tokens: int | None,
        *,
        replace: bool,
    ) -> None:
        self._settings = settings
        self._model_dir = model_dir
        self._log_file = log_file
        self._replace = replace
        self._bounds = {} if max_tokens is None else {"NIM_TRITON_MAX_SEQ_LENGTH": str(max_tokens)}

    def arguments(self) -> list[str]:
        """The whole command line. The key is passed by its variable's name only."""
        settings = self._settings
        port = f"{settings.bind_address}:{settings.host_port}:{settings.container_port}"
        return [
            "docker",
            "run",
            "--detach",
            "--name",
            settings.container_name,
            "--label",
            f"{_RECIPE}={_NAME}",
            "--label",
            f"{_OWNER}={self._owner()}",
            *(["--gpus", settings.gpus] if settings.gpus else []),
            "--shm-size",
            settings.shm_size,
            "--publish",
            port,
            "--volume",
            f"{self._model_dir.resolve()}:{settings.container_model_path}:ro",
            "--env",
            f"NIM_CUSTOM_MODEL={settings.container_model_path}",
            "--env",
            f"NIM_HTTP_API_PORT={settings.container_port}",
            "--env",
            f"NIM_CACHE_PATH={settings.container_cache_path}",
            # Our images send no telemetry; this is NVIDIA's variable for that.
            "--env",
            "NIM_TELEMETRY_MODE=0",
            *(part for item in self._bounds.items() for part in ("--env", "=".join(item))),
            "--env",
            settings.ngc_api_key_env,
            settings.nim_image,
        ]

    def check(self) -> None:
        """See Launcher."""
        if shutil.which("docker") is None:
            raise BadConfig(
                "found no docker command, wanted Docker for launcher = docker; install it, or "
                "set launcher=process to run rerank-serve on this machine"
            )
        found = self._existing()
        if found is None:
            return
        name = self._settings.container_name
        if found.recipe != _NAME:
            raise OutputRefused(
                f"the container {name} was not made by this recipe and is not replaced; remove it "
                "yourself, or set another container_name"
            )
        if found.owner != self._owner():
            raise OutputRefused(
                f"the container {name} belongs to the deployment in {found.owner or 'no folder'}, "
                f"this one is in {self._owner()}; set another container_name, or remove it "
                f"yourself: docker rm --force {name}"
            )
        if not self._replace:
            raise OutputRefused(
                f"a container named {name} exists; set replace_existing=true to replace it, or "
                "another container_name"
            )

    def command_line(self) -> str:
        """See Launcher."""
        return shlex.join(self.arguments())

    def start(self, log: Log) -> Endpoint:
        """See Launcher."""
        name = self._settings.container_name
        if self._existing():
            log(f"replace the container {name}")
            _docker("rm", "--force", name)
        _require_free(self._settings)
        done = subprocess.run(self.arguments(), capture_output=True, text=True, check=False)
        if done.returncode:
            raise StageFailed(f"docker run failed: {done.stderr.strip()}")
        url = f"http://{self._settings.bind_address}:{self._settings.host_port}"
        return _Container(url, name, remove=self._settings.remove_on_exit)

    def _owner(self) -> str:
        """The folder of this deployment, which distinguishes it from others."""
        return str(self._log_file.parent.resolve())

    def _existing(self) -> "_ContainerLabels | None":
        """A container with this name, running or not."""
        name = self._settings.container_name
        shape = "\t".join(["{{.Names}}", *(f'{{{{.Label "{key}"}}}}' for key in (_RECIPE, _OWNER))])
        found = _docker("ps", "--all", "--filter", f"name=^/{name}$", "--format", shape)
        _, recipe, owner, *_ = [*found.split("\t"), "", ""]
        return _ContainerLabels(recipe, owner) if found else None


@dataclass(frozen=True)
class _ContainerLabels:
    """The labels of a container: the recipe that made it, and the folder ("" without one)."""

    recipe: str
    owner: str


@dataclass
class _Container(Endpoint):
    name: str
    remove: bool

    def is_alive(self) -> bool:
        return _is_running(self.name)

    def last_lines(self) -> str:
        return _docker("logs", "--tail", str(_LOG_LINES), self.name)

    def wait(self) -> None:
        code = _docker("wait", self.name)
        raise StageFailed(f"the container {self.name} ended by itself with code {code}")

    def stop(self) -> None:
        _docker("stop", self.name)
        if self.remove:
            _docker("rm", "--force", self.name)

    def stop_command(self) -> str:
        return f"docker {'rm --force' if self.remove else 'stop'} {self.name}"

    def record(self) -> Record:
        return Record(url=self.url, launcher="docker", handle=self.name, stop=self.stop_command())


class ProcessLauncher(Launcher):
    """rerank-serve of this environment, in a session of its own."""

    def __init__(
        self,
        settings: DeployConfig,
        model_dir: Path,
        log_file: Path,
        max_tokens: int | None,
        *,
        replace: bool,
    ) -> None:
        self._settings = settings
        self._model_dir = model_dir
        self._log_file = log_file
        self._replace = replace
        self._bounds = {} if max_tokens is None else {"NIM_TRITON_MAX_SEQ_LENGTH": str(max_tokens)}

    def check(self) -> None:
        """See Launcher."""
        if not self._program().is_file():
            raise BadConfig(
                f"found no {self._program()}; install the extra serve-cpu into this environment"
            )
        previous = self._previous()
        if previous is not None and not self._replace:
            raise OutputRefused(
                f"an endpoint of this recipe runs as process {previous.pid}; set "
                f"replace_existing=true to replace it, or stop it with: kill {previous.pid}"
            )

    def command_line(self) -> str:
        """See Launcher."""
        given = [f"{name}={value}" for name, value in self._environment().items()]
        return shlex.join(["env", *given, *self._arguments()])

    def start(self, log: Log) -> Endpoint:
        """See Launcher."""
        previous = self._previous()
        if previous is not None:
            log(f"replace the process {previous.pid}")
            previous.end()
        _require_free(self._settings)
        self._log_file.parent.mkdir(parents=True, exist_ok=True)
        with self._log_file.open("wb") as log_file:
            running = subprocess.Popen(
                self._arguments(),
                env={**os.environ, **self._environment()},
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=subprocess.STDOUT,
                # Ctrl-C on the terminal goes to the stage, which then stops the server.
                start_new_session=True,
            )
        write_started(self._process_file, running.pid)
        url = f"http://{self._settings.bind_address}:{self._settings.host_port}"
        return _Process(url, running, self._log_file, self._process_file)

    def _arguments(self) -> list[str]:
        return [str(self._program()), "--rank", str(self._model_dir.resolve())]

    def _environment(self) -> dict[str, str]:
        settings = self._settings
        return {
            "NIM_BIND_ADDR": f"{settings.bind_address}:{settings.host_port}",
            **self._bounds,
            # With another endpoint on this machine these ports would be in use.
            "NIM_TRITON_GRPC_PORT": "0",
            "NIM_TRITON_METRICS_PORT": "0",
        }

    @staticmethod
    def _program() -> Path:
        return Path(sys.executable).with_name("rerank-serve")

    @property
    def _process_file(self) -> Path:
        return self._log_file.with_name(PROCESS_FILE)

    def _previous(self) -> Started | None:
        """The running server of an earlier run of this stage, or None."""
        return read_started(self._process_file)


@dataclass
class _Process(Endpoint):
    running: "subprocess.Popen[bytes]"
    log_file: Path
    process_file: Path

    def is_alive(self) -> bool:
        return self.running.poll() is None

    def last_lines(self) -> str:
        lines = self.log_file.read_text(errors="replace").splitlines()
        return "\n".join(lines[-_LOG_LINES:])

    def wait(self) -> None:
        code = self.running.wait()
        raise StageFailed(
            f"the server ended by itself with code {code}; its last lines:\n{self.last_lines()}"
        )

    def stop(self) -> None:
        if self.running.poll() is None:
            self.running.terminate()
            try:
                self.running.wait(_STOP_S)
            except subprocess.TimeoutExpired:
                self.running.kill()
                self.running.wait()
        self.process_file.unlink(missing_ok=True)

    def stop_command(self) -> str:
        return f"kill {self.running.pid}"

    def record(self) -> Record:
        return Record(
            url=self.url,
            launcher="process",
            handle=str(self.running.pid),
            stop=self.stop_command(),
        )


def _is_running(container: str) -> bool:
    return bool(_docker("ps", "--quiet", "--filter", f"name=^/{container}$"))


def _require_free(settings: DeployConfig) -> None:
    """Another server on the port would answer in the place of ours."""
    place = settings.bind_address, settings.host_port
    with socket.socket() as asked:
        asked.settimeout(1.0)
        if asked.connect_ex(place) == 0:
            raise StageFailed(
                f"a server already answers on {place[0]}:{place[1]}; stop it, or set host_port"
            )


def _docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip()
