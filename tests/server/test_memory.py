"""The C library's heap, looked at from inside a process of its own."""

import subprocess
import sys

# How many blocks of 1 MiB have pages of their own, after one of 8 MiB was freed.
_COUNT = """
import ctypes, sys
from server.memory import give_memory_back, map_large_blocks

libc = ctypes.CDLL(None)
libc.malloc.restype = ctypes.c_void_p
libc.malloc.argtypes = [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]

class Info(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in
        ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks",
         "fordblks", "keepcost")]

libc.mallinfo2.restype = Info
if sys.argv[1] == "mapped":
    map_large_blocks()
libc.free(libc.malloc(8 << 20))
before = libc.mallinfo2().hblks
blocks = [libc.malloc(1 << 20) for _ in range(10)]
print(libc.mallinfo2().hblks - before)
for block in blocks:
    libc.free(block)
give_memory_back()
"""


def count(how: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", _COUNT, how], check=True, capture_output=True, text=True
    )
    return int(done.stdout)


def test_large_blocks_have_pages_of_their_own() -> None:
    assert count("mapped") == 10
    assert count("as it comes") == 0
