"""Limits of the process that a start can meet: of threads and of memory. Standard library only.

Linux counts threads in three places: RLIMIT_NPROC (all of a user), pids.max (a container) and, by
the memory of their stacks, RLIMIT_AS. Where one is met, Python and native libraries each say it
in words of their own, or end the process without a word.
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

# A server with two models has 25 threads on two cores under load; engines, tokenizers and
# schedulers each have some for every core.
_THREADS, _THREADS_A_CORE = 16, 4
_STACK_BYTES = 8 << 20  # glibc's, where RLIMIT_STACK says nothing
# What libraries and heaps take beside the stacks, with the smallest of models: by the limit that
# counts it, the field of /proc/self/statm and the bytes. A model that finds no room later fails
# with an error that says so; libraries do not.
_MEMORY = {"RLIMIT_AS": (0, 1280 << 20), "RLIMIT_DATA": (5, 256 << 20)}
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_CGROUP = Path("/proc/self/cgroup")
_STATM = Path("/proc/self/statm")
# Of Python, pthreads, Rust's standard library and rayon.
_NO_THREAD = re.compile(
    r"can't start new thread|pthread_create|thread::spawn|failed to spawn thread"
    r"|ThreadPoolBuildError"
)
# EAGAIN tells of sockets and files as well: only beside one of these words, which is no part of a
# file's name, does it tell of threads.
_AGAIN = "Resource temporarily unavailable"
_THREADING = re.compile(
    r"(?<![\w./-])(pthread\w*|threads?|fork|clone3?)(?![\w/-]|\.\w)", re.IGNORECASE
)
# Of C++ (where CUDA's libraries add the name of their error) and the dynamic loader.
_NO_MEMORY = re.compile(r"bad_alloc(?!.*cuda)|failed to map segment", re.IGNORECASE)
# Of the C library and ONNX Runtime's arena. A GPU's memory and another server's are told in the
# same words, and are no limit of this process.
_NO_MEMORY_SOMEWHERE = re.compile(r"Cannot allocate memory|Failed to allocate memory")
_ELSEWHERE = re.compile(r"cuda|gpu|tensorrt|device|triton", re.IGNORECASE)


class LimitExceeded(Exception):
    """The process may not have what it needs; the text names the limit."""


def check_process_limits() -> None:
    """Find out whether the process may have the threads and the memory of a small server.

    A native library that finds no room ends the process without a word, or hangs. Raises
    LimitReached.
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
    """The limit that `error` comes of, and what to do; None where it comes of something else, as
    a device's memory. What a ServingError says itself follows in parentheses."""
    limit = _first_limit(error)
    return f"{limit} ({error})" if limit and isinstance(error, ServingError) else limit


def _first_limit(error: BaseException) -> str | None:
    elsewhere = False
    for one in _chain(error):
        text = str(one)
        number = one.errno if isinstance(one, OSError) else None
        # Said of an error, it holds for its causes, whose texts are shorter.
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
    """The limit of threads that was met."""
    pids = _pids_left()
    if pids is not None and pids[1] <= 0:
        return f"pids.max of the container is {pids[0]}; raise it (docker run --pids-limit)"
    for name in _MEMORY:
        if _left_below(name) <= _stack_bytes():
            return _limit_text(name)
    processes = resource.getrlimit(resource.RLIMIT_NPROC)[0]
    if processes != resource.RLIM_INFINITY:
        return (
            f"RLIMIT_NPROC is {processes} for everything that user {os.getuid()} runs; raise it "
            "(ulimit -u), or pids.max where a container has one"
        )
    if pids is not None:
        return f"pids.max of the container is {pids[0]}; raise it (docker run --pids-limit)"
    return "the machine's kernel.threads-max or kernel.pid_max; raise it, or end other processes"


def _memory_limit() -> str:
    """The limit of memory that was met."""
    for name in _MEMORY:
        if _left_below(name) < float("inf"):
            return _limit_text(name)
    return "all of the machine or the container (memory.max); give it more, or take a smaller model"


def _limit_text(name: str) -> str:
    limit = resource.getrlimit(getattr(resource, name))[0]
    flag = {"RLIMIT_AS": "-v", "RLIMIT_DATA": "-d"}[name]
    return f"{name} is {limit >> 20} MiB; raise it (ulimit {flag}), or take a smaller model"


def _left_below(name: str) -> float:
    """Bytes of memory that the process may still take; infinity without such a limit."""
    limit = resource.getrlimit(getattr(resource, name))[0]
    if limit == resource.RLIM_INFINITY:
        return float("inf")
    place, _ = _MEMORY[name]
    return limit - int(_STATM.read_text().split()[place]) * resource.getpagesize()


def _stack_bytes() -> int:
    size = resource.getrlimit(resource.RLIMIT_STACK)[0]
    return _STACK_BYTES if size == resource.RLIM_INFINITY else size


def _pids_left() -> tuple[int, int] | None:
    """pids.max of the cgroup that has the least room, and that room; None without such a limit.

    The files of cgroup v2; v1 has them under pids/.
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
