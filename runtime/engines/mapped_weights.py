"""Give back the memory of mapped weights that an engine has read.

OpenVINO maps a graph's weights and lays out its own copy of them: some when it compiles, the rest
in the first call. The mapped pages stay resident, although nothing reads most of them again; at 1B
in bf16 they are two thirds of the process. They are clean, so giving them back costs a page fault
when one is read again, usually from the page cache.
"""

import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Generic, TypeVar

# proc_pid_maps(5); elsewhere than on Linux nothing is given back.
_MAPS = Path("/proc/self/maps")
_MADV_DONTNEED = 4
# The weights of a 1B model are read in some seconds, so few of their pages are resident at once.
_INTERVAL_S = 0.05
_READING = threading.Lock()

G = TypeVar("G")
Range = tuple[int, int]


class MappedWeights(Generic[G]):
    """The `graph` that `read` returns, and the ranges of memory where `read` mapped `model_file`
    and files of weights beside it.

    The graph must keep them mapped: as long as this object lives nothing else can take their place
    in memory, whose contents would be lost.
    """

    def __init__(self, model_file: Path, read: Callable[[], G]) -> None:
        self._file = model_file
        with _READING:  # another thread that reads the same file must not be taken for this one
            before = _mapped_now(model_file)
            self.graph = read()
            self._ranges = _mapped_now(model_file) - before

    @contextmanager
    def released(self) -> Iterator[None]:
        """While the block runs, and once at its end, give back the pages that are resident."""
        if not self._ranges:
            yield
            return
        ended = threading.Event()
        thread = threading.Thread(
            target=self._release_until, args=[ended], name="mapped-weights", daemon=True
        )
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()

    def _release_until(self, ended: threading.Event) -> None:
        libc = ctypes.CDLL(None)
        while True:
            last = ended.wait(_INTERVAL_S)
            for start, size in self._ranges & _mapped_now(self._file):
                libc.madvise(ctypes.c_void_p(start), ctypes.c_size_t(size), _MADV_DONTNEED)
            if last:
                return


def mapped_ranges(maps: str, model_file: Path) -> list[Range]:
    """Address and size in bytes of the read-only mappings of `model_file` and of files beside it
    whose names continue its name, in `maps`, the text of /proc/PID/maps."""
    prefix = str(model_file.resolve())
    found = []
    for line in maps.splitlines():
        addresses, permissions, _, _, _, *path = line.split(maxsplit=5)
        # A page that may be written could hold changes, which would be lost.
        if path and path[0].startswith(prefix) and permissions.startswith("r--"):
            start, end = (int(address, 16) for address in addresses.split("-"))
            found.append((start, end - start))
    return found


def _mapped_now(model_file: Path) -> set[Range]:
    try:
        maps = os.fsdecode(_MAPS.read_bytes())
    except OSError:
        return set()
    return set(mapped_ranges(maps, model_file))
