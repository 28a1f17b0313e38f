"""The C library's heap, looked at from inside a process of its own."""

import os
import subprocess
import sys

# What would change how the heap begins.
_OTHERS = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")
# How many blocks of 1 MiB have pages of their own, after one of 8 MiB was freed.
_COUNT = """
import ctypes, sys
from server.memory import trim_heap, map_large_blocks

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in
        ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
         "fordblks", "keepcost")]

if sys.argv[1] == "mapped":
    map_large_blocks()
trim_heap()
if not hasattr(libc, "mallinfo2"):
    sys.exit()  # another C library, whose heap is left alone
libc.mallinfo2.restype = Info
libc.free(libc.malloc(8 << 20))
before = libc.mallinfo2().hblks
blocks = [libc.malloc(1 << 20) for _ in range(10)]
print(libc.mallinfo2().hblks - before)
for block in blocks:
    libc.free(block)
trim_heap()
"""


def count(how: str) -> str:
    """Empty where the C library is not glibc."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(_OTHERS)}
    command = [sys.executable, "-c", _COUNT, how]
    done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def test_large_blocks_have_pages_of_their_own() -> None:
    found = count("mapped"), count("as it comes")
    assert found in {("10", "0"), ("", "")}
