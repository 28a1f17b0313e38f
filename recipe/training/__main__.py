"""One of several training processes: torchrun … -m recipe.training JOB.json"""

import os
import sys
from pathlib import Path

import msgspec

from recipe.progress import under
from recipe.training.following import die_with
from recipe.training.job import Job

_INIT = 1


def main() -> None:
    """Train what the file says, as the process that torchrun's variables describe."""
    parent = os.getppid()
    if parent == _INIT:  # whoever started it never is: torchrun was killed meanwhile
        sys.exit("torchrun ended before this process had begun")
    die_with(parent)
    # PyTorch takes seconds to load, in which torchrun may end.
    from recipe.training.loop import train

    job = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Job)
    train(job, under("finetune"))


if __name__ == "__main__":
    main()
