"""Limits of threads and memory that a start may exceed, and which one an error came from.

Linux limits threads in three ways: RLIMIT_NPROC (all of a user), pids.max (a container) and
RLIMIT_AS (the memory of their stacks). When one is exceeded, Python and each native library report
it differently, or end the process without a message. Standard library only.
"""

import errno
import os
import re
import resource
import threading
from collections.abc import Iterator
from pathlib import Path

from runtime.cores import usable_cores
from runtime.errors import OutOfMemory, ServingError

# A server with two models has 25 threads on two cores under load. Engines, tokenizers and
# schedulers start some for every core.
_THREADS, _THREADS_A_CORE = 16, 4
_STACK_BYTES = 8 << 20  # glibc's, where RLIMIT_STACK says nothing
# Memory of libraries and heaps beside the stacks, with the smallest model. Limit → (the field of
# /proc/self/statm that it counts, bytes). A model without memory fails later with a clear error;
# libraries do not.
_MEMORY = {"RLIMIT_AS": (0, 1280 << 20), "RLIMIT_DATA": (5, 256 << 20)}
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")
_STATM = Path("/proc/self/statm")
# Messages of Python, pthreads, Rust's standard library and rayon.
_NO_THREAD = re.compile(
    r"can't start new thread|pthread_create|thread::spawn|failed to spawn thread"
    r"|ThreadPoolBuildError"
)
# EAGAIN also concerns sockets and files. It concerns threads if one of these words is in the
# message, but not as a part of a file name.
_AGAIN = "Resource temporarily unavailable"
_THREADING = re.compile(
    r"(?<![\w./-])(pthread\w*|threads?|fork|clone3?)(?![\w/-]|\.\w)", re.IGNORECASE
)
# Messages of C++ (CUDA's libraries add the name of their error) and of the dynamic loader.
_NO_MEMORY = re.compile(r"bad_alloc(?!.*cuda)|failed to map segment", re.IGNORECASE)
# Messages of the C library and ONNX Runtime's arena. They are also used for the memory of a GPU or
# of another server, which is not a limit of this process.
_NO_MEMORY_SOMEWHERE = re.compile(r"Cannot allocate memory|Failed to allocate memory")
_ELSEWHERE = re.compile(r"cuda|gpu|tensorrt|device|triton", re.IGNORECASE)


class LimitExceeded(Exception):
    """A limit of the process is too low or exceeded; the message names it."""


def check_process_limits() -> None:
    """Check that the process may have the threads and memory of a small server.

    Without them a native library would hang, or end the process without a message. Raises
    LimitExceeded.
    """
    wanted = _THREADS + _THREADS_A_CORE * usable_cores()
    for name, (_, least) in _MEMORY.items():
        least += wanted * _stack_bytes()
        if _left_below(name) < least:
            raise LimitExceeded(f"wanted room for {least >> 20} MiB more: {_limit_text(name)}")
    over = threading.Event()
    begun: list[threading.Thread] = []
    try:
        for _ in range(wanted):
            thread = threading.Thread(target=over.wait, daemon=True)
            thread.start()
            begun.append(thread)
    except RuntimeError:
        raise LimitExceeded(
            f"found room for {len(begun)} more threads, wanted {wanted}: {_thread_limit()}"
        ) from None
    finally:
        over.set()
        for thread in begun:
            thread.join()


def find_exceeded_limit(error: BaseException) -> str | None:
    """The process limit that caused `error`, and what to do; None for another cause, such as a
    device's memory. The message of a ServingError follows in parentheses."""
    limit = _first_limit(error)
    return f"{limit} ({error})" if limit and isinstance(error, ServingError) else limit


def _first_limit(error: BaseException) -> str | None:
    elsewhere = False
    for one in _chain(error):
        text = str(one)
        number = one.errno if isinstance(one, OSError) else None
        # If an error mentions a device, so do its causes, whose messages are shorter.
        elsewhere = elsewhere or _ELSEWHERE.search(text) is not None
        if isinstance(one, OutOfMemory):
            return None
        if isinstance(one, LimitExceeded):
            return text
        if (
            isinstance(one, MemoryError)
            or number == errno.ENOMEM
            or _NO_MEMORY.search(text)
            or (_NO_MEMORY_SOMEWHERE.search(text) and not elsewhere)
        ):
            return f"found no more memory: {_memory_limit()}"
        again = number == errno.EAGAIN or _AGAIN in text
        if _NO_THREAD.search(text) or (again and _THREADING.search(text)):
            return f"found no room for another thread: {_thread_limit()}"
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__


def _thread_limit() -> str:
    """The exceeded limit of threads."""
    most, left = _pids_left() or (None, 1)
    of_pids = f"pids.max of the container is {most}; raise it (docker run --pids-limit)"
    if left <= 0:
        return of_pids
    for name in _MEMORY:
        if _left_below(name) <= _stack_bytes():
            return _limit_text(name)
    processes = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    if processes != resource.RLIM_INFINITY:
        return (
            f"RLIMIT_NPROC is {processes} for everything that user {os.getuid()} runs; raise it "
            "(ulimit -u), or pids.max where a container has one"
        )
    if most is not None:
        return of_pids
    return "the machine's kernel.threads-max or kernel.pid_max; raise it, or end other processes"


def _memory_limit() -> str:
    """The exceeded limit of memory."""
    for name in _MEMORY:
        if _left_below(name) < float("inf"):
            return _limit_text(name)
    return "all of the machine or the container (memory.max); give it more, or take a smaller model"


def _limit_text(name: str) -> str:
    limit = resource.getrlimit(getattr(resource, name))[0]
    flag = {"RLIMIT_AS": "-v", "RLIMIT_DATA": "-d"}[name]
    return f"{name} is {limit >> 20} MiB; raise it (ulimit {flag}), or take a smaller model"


def _left_below(name: str) -> float:
    """Bytes that the process may still allocate under this limit; infinity without one."""
    limit = resource.getrlimit(getattr(resource, name))[0]
    if limit == resource.RLIM_INFINITY:
        return float("inf")
    place, _ = _MEMORY[name]
    return limit - int(_STATM.read_text().split()[place]) * resource.getpagesize()


def _stack_bytes() -> int:
    size = resource.getrlimit(resource.RLIMIT_STACK)[0]
    return _STACK_BYTES if size == resource.RLIM_INFINITY else size


def _pids_left() -> tuple[int, int] | None:
    """pids.max of the tightest cgroup, and how many threads it has left; None without a limit.

    Reads the files of cgroup v2; v1 has them under pids/.
    """
    found = []
    for line in _lines(_OWN_CGROUP):
        _, controllers, path = line.split(":", 2)
        if controllers in ("", "pids"):
            root = _CGROUPS / controllers
            place = root / path.lstrip("/")
            for folder in (place, *place.parents):
                most, current = _lines(folder / "pids.max"), _lines(folder / "pids.current")
                if most and current and most[0].isdigit():
                    found.append((int(most[0]), int(most[0]) - int(current[0])))
                if folder == root:
                    break
    return min(found, key=lambda one: one[1], default=None)


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except OSError:
        return []
