"""Launchers start an endpoint, with Docker or as a local process."""

import os
import shlex
import shutil
import socket
import subprocess
import sys
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

import httpx
import msgspec

from recipe.config import DeployConfig
from recipe.durable import read_json
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
    record = read_json(folder / ENDPOINT_FILE, Record)
    if record is None:
        return None
    if record.launcher == "process":
        left = read_started(folder / PROCESS_FILE)
        return record if left is not None and record.handle == str(left.pid) else None
    return record if shutil.which("docker") and _is_running(record.handle) else None


def is_ready(url: str) -> bool:
    """Whether the endpoint says that it is ready."""
    try:
        return httpx.get(url + _READY_PATH, timeout=5.0).is_success
    except httpx.HTTPError:
        return False


class Launcher(ABC):
    """Starts, watches and stops one endpoint for one artifact.

    `model_dir` None serves the image's own model. `max_tokens` limits a pair (None: the artifact's
    own limit). With `replace`, an endpoint that an
    earlier run left is stopped first.
    """

    name: ClassVar[str]

    def __init__(
        self,
        settings: DeployConfig,
        model_dir: Path | None,
        log_file: Path,
        max_tokens: int | None,
        *,
        replace: bool,
    ) -> None:
        self._settings, self._model_dir, self._log_file = settings, model_dir, log_file
        self._replace = replace
        self._bounds = {} if max_tokens is None else {"NIM_TRITON_MAX_SEQ_LENGTH": str(max_tokens)}
        self.url = f"http://{settings.bind_address}:{settings.host_port}"

    @abstractmethod
    def check(self) -> None:
        """Raise BadConfig or OutputRefused for problems that would make `start` fail."""

    @abstractmethod
    def command_line(self) -> str:
        """The command line that `start` runs, without secrets."""

    @abstractmethod
    def start(self, log: Log) -> None:
        """Start it, after stopping an earlier one of this recipe. Raises StageFailed."""

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
    def handle(self) -> str:
        """The process id or the container's name."""

    @abstractmethod
    def stop_command(self) -> str:
        """The shell command that stops it."""

    def record(self) -> Record:
        """For endpoint.json."""
        return Record(
            url=self.url, launcher=self.name, handle=self.handle(), stop=self.stop_command()
        )

    def wait_until_ready(self, timeout_s: float, interval_s: float) -> None:
        """Poll its health until it is ready. Raises StageFailed when it ends or on timeout."""
        deadline = time.monotonic() + timeout_s
        while not is_ready(self.url):
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


class DockerLauncher(Launcher):
    """`docker run` of an image that takes NIM_CUSTOM_MODEL."""

    name = "docker"

    def arguments(self) -> list[str]:
        """The whole command line. The key is passed by its variable's name only."""
        settings = self._settings
        port = f"{settings.bind_address}:{settings.host_port}:{settings.container_port}"
        own = (
            [] if self._model_dir is None else [f"NIM_CUSTOM_MODEL={settings.container_model_path}"]
        )
        given = [
            *own,
            f"NIM_HTTP_API_PORT={settings.container_port}",
            f"NIM_CACHE_PATH={settings.container_cache_path}",
            "NIM_TELEMETRY_MODE=0",  # our images send none; this is NVIDIA's variable for that
            *map("=".join, self._bounds.items()),
            settings.ngc_api_key_env,
        ]
        return [
            *("docker", "run", "--detach", "--name", settings.container_name),
            *("--label", f"{_RECIPE}={_NAME}", "--label", f"{_OWNER}={self._owner()}"),
            *(("--gpus", settings.gpus) if settings.gpus else ()),
            *("--shm-size", settings.shm_size, "--publish", port),
            *self._volume(),
            *(part for one in given for part in ("--env", one)),
            settings.nim_image,
        ]

    def _volume(self) -> list[str]:
        if self._model_dir is None:
            return []
        inside = self._settings.container_model_path
        return ["--volume", f"{self._model_dir.resolve()}:{inside}:ro"]

    def check(self) -> None:
        if shutil.which("docker") is None:
            raise BadConfig(
                "found no docker command, wanted Docker for launcher = docker; install it, or "
                "set launcher=process to run rerank-serve on this machine"
            )
        found = self._existing()
        if found is None:
            return
        name, (recipe, owner) = self._settings.container_name, found
        if recipe != _NAME:
            raise OutputRefused(
                f"the container {name} was not made by this recipe and is not replaced; remove it "
                "yourself, or set another container_name"
            )
        if owner != self._owner():
            raise OutputRefused(
                f"the container {name} belongs to the deployment in {owner or 'no folder'}, "
                f"this one is in {self._owner()}; set another container_name, or remove it "
                f"yourself: docker rm --force {name}"
            )
        if not self._replace:
            raise OutputRefused(
                f"a container named {name} exists; set replace_existing=true to replace it, or "
                "another container_name"
            )

    def command_line(self) -> str:
        return shlex.join(self.arguments())

    def start(self, log: Log) -> None:
        name = self._settings.container_name
        if self._existing():
            log(f"replace the container {name}")
            _docker("rm", "--force", name)
        _require_free(self._settings)
        done = subprocess.run(self.arguments(), capture_output=True, text=True, check=False)
        if done.returncode:
            raise StageFailed(f"docker run failed: {done.stderr.strip()}")

    def is_alive(self) -> bool:
        return _is_running(self.handle())

    def last_lines(self) -> str:
        return _docker("logs", "--tail", str(_LOG_LINES), self.handle())

    def wait(self) -> None:
        code = _docker("wait", self.handle())
        raise StageFailed(f"the container {self.handle()} ended by itself with code {code}")

    def stop(self) -> None:
        _docker("stop", self.handle())
        if self._settings.remove_on_exit:
            _docker("rm", "--force", self.handle())

    def handle(self) -> str:
        return self._settings.container_name

    def stop_command(self) -> str:
        return f"docker {'rm --force' if self._settings.remove_on_exit else 'stop'} {self.handle()}"

    def _owner(self) -> str:
        """The folder of this deployment, which distinguishes it from others."""
        return str(self._log_file.parent.resolve())

    def _existing(self) -> tuple[str, str] | None:
        """The labels of a container with this name, running or not: the recipe that made it, and
        the folder ("" without one)."""
        name = self._settings.container_name
        shape = "\t".join(["{{.Names}}", *(f'{{{{.Label "{key}"}}}}' for key in (_RECIPE, _OWNER))])
        found = _docker("ps", "--all", "--filter", f"name=^/{name}$", "--format", shape)
        _, recipe, owner, *_ = [*found.split("\t"), "", ""]
        return (recipe, owner) if found else None


class ProcessLauncher(Launcher):
    """rerank-serve of this environment, in a session of its own."""

    name = "process"
    running: "subprocess.Popen[bytes]"  # after `start`

    def check(self) -> None:
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
        given = [f"{name}={value}" for name, value in self._environment().items()]
        return shlex.join(["env", *given, *self._arguments()])

    def start(self, log: Log) -> None:
        previous = self._previous()
        if previous is not None:
            log(f"replace the process {previous.pid}")
            previous.end()
        _require_free(self._settings)
        self._log_file.parent.mkdir(parents=True, exist_ok=True)
        with self._log_file.open("wb") as log_file:
            self.running = subprocess.Popen(
                self._arguments(),
                env={**os.environ, **self._environment()},
                stdin=subprocess.DEVNULL,
                stdout=log_file,
                stderr=subprocess.STDOUT,
                # Ctrl-C on the terminal goes to the stage, which then stops the server.
                start_new_session=True,
            )
        write_started(self._process_file, self.running.pid)

    def is_alive(self) -> bool:
        return self.running.poll() is None

    def last_lines(self) -> str:
        lines = self._log_file.read_text(errors="replace").splitlines()
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
        self._process_file.unlink(missing_ok=True)

    def handle(self) -> str:
        return str(self.running.pid)

    def stop_command(self) -> str:
        return f"kill {self.handle()}"

    def _arguments(self) -> list[str]:
        served = [] if self._model_dir is None else ["--rank", str(self._model_dir.resolve())]
        return [str(self._program()), *served]

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
