"""A process that does not outlive the one that started it.

Killed without warning, a parent cannot end its children, and training processes left over would
write into checkpoints from which the next run goes on. Linux ends them when it is asked to
(prctl(2), PR_SET_PDEATHSIG); other systems do not offer it.
"""

import ctypes
import os
import signal
import sys

_PR_SET_PDEATHSIG = 1


def die_with(parent: int) -> None:
    """Have the kernel kill this process once `parent`, the process that started it, ends.

    May be called between fork and exec: the wish outlives exec.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the kernel was asked
        os.kill(os.getpid(), signal.SIGKILL)
