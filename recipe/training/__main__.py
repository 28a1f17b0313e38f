"""One of several training processes: torchrun … -m recipe.training JOB.json"""

import os
import sys
from pathlib import Path

import msgspec

from recipe.progress import under
from recipe.training.following import die_with
from recipe.training.job import Job
from recipe.training.loop import train


def main() -> None:
    """Train what the file says, as the process that torchrun's variables describe."""
    die_with(os.getppid())
    job = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=Job)
    train(job, under("finetune"))


if __name__ == "__main__":
    main()
