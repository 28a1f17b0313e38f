"""One of several training processes: torchrun … -m recipe.training JOB.json"""

import os
import sys
from pathlib import Path

import msgspec

from recipe.progress import under
from recipe.training.following import die_with
from recipe.training.job import Job
from runtime.telemetry import disable_telemetry

_INIT = 1
# torchrun as a command, and as the stage finetune calls it.
_TORCHRUN = (b"torchrun", b"torch.distributed.run")


def main() -> None:
    """Train what the file says, as the process that torchrun's variables describe."""
    disable_telemetry()
    parent = os.getppid()
    # An orphan has a new parent: init, or on Linux whoever asked the kernel to be it.
    orphan = not _is_torchrun(parent) if sys.platform == "linux" else parent == _INIT
    if orphan:
        sys.exit(
            f"found that process {parent} started this one, wanted torchrun, which may have ended "
            "meanwhile; run the stage finetune again"
        )
    die_with(parent)
    # PyTorch takes seconds to load, in which torchrun may end.
    from recipe.training.loop import train

    job = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Job)
    train(job, under("finetune"))


def _is_torchrun(process: int) -> bool:
    try:
        command = Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:  # it has ended
        return False
    return any(name in command for name in _TORCHRUN)


if __name__ == "__main__":
    main()
