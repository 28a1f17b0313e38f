"""One of several training processes: torchrun … -m recipe.training JOB.json"""

import os
import sys
from pathlib import Path

import msgspec

from recipe.config import FinetuneConfig
from recipe.progress import stage_log
from recipe.training.parent_death import kill_with_parent
from runtime.telemetry import disable_telemetry

_INIT = 1
# torchrun as a command, and as the stage finetune runs it.
_TORCHRUN = (b"torchrun", b"torch.distributed.run")


def main() -> None:
    """Train with the settings in the file, as the process that torchrun's variables describe."""
    disable_telemetry()
    parent = os.getppid()
    # An orphan's parent is init, or a subreaper (Linux).
    orphan = not _is_torchrun(parent) if sys.platform == "linux" else parent == _INIT
    if orphan:
        sys.exit(
            f"found that process {parent} started this one, wanted torchrun, which may have ended "
            "meanwhile; run the stage finetune again"
        )
    kill_with_parent(parent)
    # Loading PyTorch takes seconds, during which torchrun may end.
    from recipe.training.loop import train

    settings = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=FinetuneConfig)
    train(settings, stage_log("finetune"))


def _is_torchrun(process: int) -> bool:
    try:
        command = Path(f"/proc/{process}/cmdline").read_bytes()
    except OSError:  # it has ended
        return False
    return any(name in command for name in _TORCHRUN)


if __name__ == "__main__":
    main()
