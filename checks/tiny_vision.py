"""`make serve MODEL=vl`: the seeded checkpoint of a reranker of texts and images, written anew.

`--embed` writes that of an embedder, for `make test-clients`. What they compute means nothing: the
weights are random. Nothing of them is kept in the repository.
"""

import argparse
import shutil
import sys
from pathlib import Path

from tests.tiny_vision import embedder_config, write_vision


def main(arguments: list[str] | None = None) -> int:
    """Write the checkpoint into the folder that is named; what was there goes."""
    parser = argparse.ArgumentParser(prog="tiny-vision", description=__doc__)
    parser.add_argument("folder", metavar="DIR", type=Path)
    parser.add_argument("--embed", action="store_true", help="an embedder")
    chosen = parser.parse_args(arguments)
    shutil.rmtree(chosen.folder, ignore_errors=True)
    write_vision(chosen.folder, embedder_config() if chosen.embed else None)
    return 0


if __name__ == "__main__":
    sys.exit(main())
