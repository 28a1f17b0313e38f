"""`make check-zoo`: every checkpoint of the zoo, exported, opened and used as a server does it.

    python -m checks.zoo [NAME ...]

Each must give its witness's tokens and numbers (the loader that users have, see tests/zoo) or be
refused with the message in the table of cases. One process, one thread of PyTorch. The exit status
is 1 when one gives another result.
"""

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch

from runtime.telemetry import disable_telemetry
from tests.zoo.case import Case
from tests.zoo.cases import CASES
from tests.zoo.outcome import Outcome, complaint, outcome
from tests.zoo.serving import serve


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when all results are those of the table of cases."""
    chosen = _chosen(arguments)
    disable_telemetry()
    torch.set_num_threads(1)
    width = max(len(case.name) for case in chosen)
    counts: Counter[str] = Counter()
    complaints = []
    for case in chosen:
        began = time.monotonic()
        found = _outcome(case)
        counts[found.word] += 1
        problem = complaint(case, found)
        seconds, mark = time.monotonic() - began, "FAILED" if problem else ""
        line = f"{case.name:{width}}  {found.word:8}  {seconds:5.1f} s  {mark}"
        print(line.rstrip(), flush=True)
        if problem:
            complaints.append(f"{case.name}: {problem}")
    totals = ", ".join(f"{number} {word}" for word, number in sorted(counts.items()))
    print("\n".join(["", *complaints, f"{len(chosen)} checkpoints: {totals}"]))
    return 1 if complaints else 0


def _outcome(case: Case) -> Outcome:
    with tempfile.TemporaryDirectory() as work:
        return outcome(case, case.build(Path(work) / "checkpoint"), serve)


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
