"""Kill a process when its parent ends.

A parent that is killed by SIGKILL cannot stop its children, and leftover training processes would
write into checkpoints from which the next run continues. Linux kills them on request (prctl(2),
PR_SET_PDEATHSIG); other systems have no such call.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def kill_with_parent(parent: int) -> None:
    """Ask the kernel to kill this process when `parent`, the process that started it, ends.

    May be called between fork and exec: the setting survives exec.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the call
        os.kill(os.getpid(), signal.SIGKILL)
