"""`make serve MODEL=vl`: the seeded checkpoint of a reranker of texts and images, written anew.

Its scores mean nothing: the weights are random. Nothing of it is kept in the repository.
"""

import argparse
import shutil
import sys
from pathlib import Path

from tests.tiny_vision import write_vision


def main(arguments: list[str] | None = None) -> int:
    """Write the checkpoint into the folder that is named; what was there goes."""
    parser = argparse.ArgumentParser(prog="tiny-vision", description=__doc__)
    parser.add_argument("folder", metavar="DIR", type=Path)
    folder = parser.parse_args(arguments).folder
    shutil.rmtree(folder, ignore_errors=True)
    write_vision(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
