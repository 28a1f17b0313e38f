"""Limits of threads and memory: a start that meets one ends in one line that names it."""

import errno
import json
import resource
import threading
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import ArtifactError, EngineError, EngineUnavailable, OutOfMemory
from server import loading, process_limits
from server.process_limits import LimitExceeded, check_process_limits, find_exceeded_limit
from tests.server.conftest import Start
from tests.server.in_process import GaveUp, Serve

MOCK = {"ENABLE_MOCK_INFERENCE": "1"}
NO_THREAD = "can't start new thread"
_UNLIMITED = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)


def limited(monkeypatch: pytest.MonkeyPatch, **given: int) -> None:
    """Let these be the process's limits, without a container's."""
    found = {getattr(resource, name): (limit, limit) for name, limit in given.items()}
    monkeypatch.setattr(resource, "getrlimit", lambda number: found.get(number, _UNLIMITED))
    monkeypatch.setattr(process_limits, "_OWN_CGROUP", Path("nowhere"))


def starting(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    """Let `most` threads start."""
    start, begun = threading.Thread.start, []

    def start_or_fail(self: threading.Thread) -> None:
        if len(begun) == most:
            raise RuntimeError(NO_THREAD)
        begun.append(self)
        start(self)

    monkeypatch.setattr(threading.Thread, "start", start_or_fail)


@pytest.mark.parametrize("most", [0, 5, 17])
def test_too_few_threads(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    limited(monkeypatch, RLIMIT_NPROC=most + 1)
    before = set(threading.enumerate())
    starting(monkeypatch, most)
    with pytest.raises(
        LimitExceeded, match=rf"for {most} more threads.*RLIMIT_NPROC is {most + 1}"
    ):
        check_process_limits()
    assert set(threading.enumerate()) <= before  # others may end meanwhile


def test_enough_of_everything(monkeypatch: pytest.MonkeyPatch) -> None:
    limited(monkeypatch)
    before = set(threading.enumerate())
    check_process_limits()
    assert set(threading.enumerate()) <= before  # others may end meanwhile


@pytest.mark.parametrize("name", ["RLIMIT_AS", "RLIMIT_DATA"])
def test_too_little_memory(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    limited(monkeypatch, **{name: 100 << 20})
    with pytest.raises(LimitExceeded, match=f"{name} is 100 MiB"):
        check_process_limits()


@pytest.mark.parametrize(
    ("own", "folder"),
    [("0::/pod/one\n", "pod"), ("3:cpu:/\n8:pids:/pod/one\n0::/\n", "pids/pod")],
    ids=["v2", "v1"],
)
def test_a_container_s_limit_of_threads(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own: str, folder: str
) -> None:
    limited(monkeypatch, RLIMIT_NPROC=60_000)
    (tmp_path / "own").write_text(own)
    for place, most, current in ((folder, "20", "20"), (f"{folder}/one", "max", "7")):
        (tmp_path / place).mkdir(parents=True)
        (tmp_path / place / "pids.max").write_text(f"{most}\n")
        (tmp_path / place / "pids.current").write_text(f"{current}\n")
    monkeypatch.setattr(process_limits, "_OWN_CGROUP", tmp_path / "own")
    monkeypatch.setattr(process_limits, "_CGROUPS", tmp_path)
    starting(monkeypatch, 2)
    with pytest.raises(LimitExceeded, match=r"pids\.max of the container is 20"):
        check_process_limits()


def caused(error: Exception, cause: BaseException) -> Exception:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError(NO_THREAD), "another thread: RLIMIT_NPROC is 9 "),
        (OSError(errno.EAGAIN, "fork"), "another thread: RLIMIT_NPROC is 9 "),
        (EngineError("cannot open: pthread_create failed, error code: 11"), "RLIMIT_NPROC is 9 "),
        (EngineError("std::thread 3 of 8: Resource temporarily unavailable"), "RLIMIT_NPROC is 9 "),
        (EngineError("Thread creation failed: Resource temporarily unavailable"), "RLIMIT_NPROC"),
        (caused(EngineError("x"), RuntimeError(NO_THREAD)), "RLIMIT_NPROC is 9 "),
        (MemoryError(), "more memory: RLIMIT_AS is 7000 MiB"),
        (caused(ValueError("x"), MemoryError()), "RLIMIT_AS is 7000 MiB"),
        (OSError(errno.ENOMEM, "mmap"), "RLIMIT_AS is 7000 MiB"),
        (EngineError("onnxruntime-cpu cannot open model.onnx: std::bad_alloc"), "RLIMIT_AS"),
        (
            EngineError("onnxruntime-cpu: Failed to allocate memory for requested buffer"),
            "RLIMIT_AS",
        ),
        (EngineError("onnxruntime-cuda cannot open model.onnx: std::bad_alloc"), "RLIMIT_AS"),
        (ImportError("cublas.so: failed to map segment from shared object"), "RLIMIT_AS"),
        (caused(EngineError("Triton failed"), MemoryError()), "RLIMIT_AS"),
    ],
)
def test_what_comes_of_a_limit(
    monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    limited(monkeypatch, RLIMIT_NPROC=9, RLIMIT_AS=7000 << 20)
    assert reason in (find_exceeded_limit(error) or "")


def test_what_an_error_of_ours_says_itself_follows() -> None:
    error = EngineError("tensorrt cannot load model.plan: pthread_create failed")
    assert (find_exceeded_limit(error) or "").endswith(f" ({error})")


AGAIN = "Resource temporarily unavailable"
NO_ROOM = "Cannot allocate memory"


@pytest.mark.parametrize(
    "error",
    [
        ValueError("found 3, wanted 4"),
        # Of a connection, and of files on NFS or with a lease.
        EngineError(f"triton cannot be reached: {AGAIN}"),
        OSError(errno.EAGAIN, AGAIN, "/fork/model.onnx"),
        caused(ArtifactError(f"cannot read clone.bin: {AGAIN}"), OSError(errno.EAGAIN, AGAIN)),
        OSError(errno.ENOENT, "no such file"),
        # A device's memory is no limit of the process.
        caused(OutOfMemory(), RuntimeError("CUDA failure 2: Failed to allocate memory")),
        EngineUnavailable(f"engine onnxruntime-cuda cannot use this GPU (CUDA failure: {NO_ROOM})"),
        caused(EngineUnavailable(f"no CUDA here ({NO_ROOM})"), RuntimeError(NO_ROOM)),
        EngineError("std::bad_alloc: cudaErrorMemoryAllocation"),
        # Nor is another server's.
        EngineError(f"Triton failed: {NO_ROOM}"),
    ],
)
def test_what_comes_of_something_else(error: Exception) -> None:
    assert find_exceeded_limit(error) is None


@pytest.mark.parametrize(
    ("error", "reason"),
    [(RuntimeError(NO_THREAD), "RLIMIT_NPROC is 9"), (MemoryError(), r"memory\.max")],
)
def test_a_model_that_meets_one(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, error: Exception, reason: str
) -> None:
    def meet(*_: Any, **__: Any) -> None:
        raise error

    limited(monkeypatch, RLIMIT_NPROC=9)
    monkeypatch.setattr(loading, "open_served", meet)
    with pytest.raises(GaveUp, match=f"cannot serve the model: found no .*{reason}"):
        serve(MOCK)


def test_a_model_whose_error_only_looks_like_one(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    def meet(*_: Any, **__: Any) -> None:
        raise ArtifactError(f"cannot read model.onnx: {AGAIN}")

    monkeypatch.setattr(loading, "open_served", meet)
    with pytest.raises(GaveUp, match=f"cannot serve the model: cannot read model.onnx: {AGAIN}"):
        serve(MOCK)


_SMALL = (
    "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (1 << 28, 1 << 28)); "
    "from server.cli import main; sys.exit(main())"
)


def test_a_process_that_has_too_little_memory(start: Start) -> None:
    server = start({**MOCK, "NIM_JSONL_LOGGING": "1"}, "-c", _SMALL)
    assert server.ends() == 1
    (line,) = server.log.splitlines()
    assert "RLIMIT_AS is 256 MiB" in json.loads(line)["message"]


# Threads with these names do not start.
_WITHOUT = """
import sys, threading
from server.cli import main
start = threading.Thread.start

def start_or_fail(self):
    if self.name == sys.argv[1]:
        raise RuntimeError("can't start new thread")
    start(self)

threading.Thread.start = start_or_fail
sys.exit(main([]))
"""


@pytest.mark.parametrize("name", ["engine-watchdog", "reload-signals"])
def test_a_thread_that_does_not_start_after_all(start: Start, name: str) -> None:
    server = start(MOCK, "-c", _WITHOUT, name)
    assert server.ends() == 1
    assert "Traceback" not in server.log
    (line,) = [line for line in server.log.splitlines() if " CRITICAL " in line]
    assert "cannot start: found no room for another thread" in line
