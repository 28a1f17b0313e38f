"""The C library's heap: return memory to the machine when a model is closed."""

import ctypes
from contextlib import suppress

# glibc's names and first value, see mallopt(3).
_M_MMAP_THRESHOLD = -3
_LARGE_BYTES = 128 * 1024


def map_large_blocks() -> None:
    """Fix glibc's mmap threshold at 128 KiB, so that larger blocks, such as weights, are returned
    to the system when freed.

    By default the threshold grows to the size of freed blocks, up to 32 MiB. Larger blocks then
    come from heaps, one for each thread, and reloading a small model under load leaks its size each
    time. Call this before the threads that load models start.
    """
    with suppress(AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


def trim_heap() -> None:
    """Return free heap memory to the system; each thread that loaded a model has a heap."""
    with suppress(AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
