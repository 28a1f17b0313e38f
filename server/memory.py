"""The C library's heap: what a model leaves free goes back to the machine."""

import ctypes
from contextlib import suppress

# glibc's names and first value, see mallopt(3).
_M_MMAP_THRESHOLD = -3
_LARGE_BYTES = 128 * 1024


def map_large_blocks() -> None:
    """Keep every block of 128 KiB and more, such as a weight, in pages of its own, which go back
    when it is freed.

    glibc begins like that, but takes blocks of up to 32 MiB from its heaps, of which each thread
    may have another, once one of that size was freed: a model of a few MiB that is reloaded under
    load then leaves as much behind each time. To be called before the threads that load models.
    """
    with suppress(AttributeError):  # another C library
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, _LARGE_BYTES)


def trim_heap() -> None:
    """Return what is free in the heaps: each thread that loads a model has one of its own."""
    with suppress(AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
