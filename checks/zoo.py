"""`make check-zoo`: every checkpoint of the zoo, exported, opened and used as a server does it.

    python -m checks.zoo [NAME ...]

Each must give its witness's tokens and numbers (the loader that users have, see tests/zoo) or be
refused with the message in the table of cases. A process for each core, with one thread of PyTorch.
The exit status is 1 when one gives another result.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import torch

from runtime.cores import usable_cores
from runtime.telemetry import disable_telemetry
from tests.zoo.case import Case
from tests.zoo.cases import CASES
from tests.zoo.outcome import Outcome, complaint, outcome
from tests.zoo.serving import serve


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when all results are those of the table of cases."""
    chosen = _chosen(arguments)
    width = max(len(case.name) for case in chosen)
    counts: Counter[str] = Counter()
    complaints = []
    with ProcessPoolExecutor(usable_cores(), get_context("spawn"), _prepare) as pool:
        for case, (found, seconds) in zip(
            chosen, pool.map(_timed_outcome, [case.name for case in chosen]), strict=True
        ):
            counts[found.word] += 1
            problem = complaint(case, found)
            mark = "FAILED" if problem else ""
            line = f"{case.name:{width}}  {found.word:8}  {seconds:5.1f} s  {mark}"
            print(line.rstrip(), flush=True)
            if problem:
                complaints.append(f"{case.name}: {problem}")
    totals = ", ".join(f"{number} {word}" for word, number in sorted(counts.items()))
    print("\n".join(["", *complaints, f"{len(chosen)} checkpoints: {totals}"]))
    return 1 if complaints else 0


def _prepare() -> None:
    disable_telemetry()
    torch.set_num_threads(1)


def _timed_outcome(name: str) -> tuple[Outcome, float]:
    """The outcome of the case of this name, and its seconds. A case holds functions, which cannot
    be sent to another process."""
    (case,) = (case for case in CASES if case.name == name)
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as work:
        found = outcome(case, case.build(Path(work) / "checkpoint"), serve)
    return found, time.monotonic() - began


def _chosen(arguments: Sequence[str] | None) -> list[Case]:
    parser = argparse.ArgumentParser(
        prog="python -m checks.zoo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("name", nargs="*", help="some of the checkpoints; none: all of them")
    named = set(parser.parse_args(arguments).name)
    if unknown := named - {case.name for case in CASES}:
        parser.error(f"found no checkpoint named {', '.join(sorted(unknown))}; see tests/zoo")
    return [case for case in CASES if not named or case.name in named]


if __name__ == "__main__":
    sys.exit(main())
