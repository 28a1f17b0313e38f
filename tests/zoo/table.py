"""docs/checkpoints.md: families, layouts and what comes of them, written from the cases.

python -m tests.zoo.table
"""

import itertools
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from tests.zoo import targets
from tests.zoo.case import Case
from tests.zoo.cases import CASES

PATH = Path(__file__).resolve().parents[2] / "docs" / "checkpoints.md"
_INTRODUCTION = """\
# Checkpoints

Families, folder layouts, and what the export makes of them. The tests make each of them as a tiny
checkpoint. *agrees*: tokens and numbers are within 1e-4 of those of the loader that users have.
*refused*: the export ends with a message that has these words. `make docs` writes this page.
"""
_TARGETS = """\
## Targets

Families that are exported for every one of these targets, and what each proves against its witness.
Their weights are random, so the rule for random weights applies (see proof.md), not the one that
trained weights have to keep. The graph for CUDA is proven on the CPU. `make test-heavy` makes all
of them.
"""
AGREES, REFUSED = "agrees", "refused"


def result(case: Case) -> str:
    """One of the two words."""
    return AGREES if case.refused is None else REFUSED


def markdown(cases: Sequence[Case]) -> str:
    """The page: a table of counts, one of targets, and one for each family."""
    families = {f: list(c) for f, c in itertools.groupby(sorted(cases, key=_family), key=_family)}
    words = (AGREES, REFUSED)
    lines = [_INTRODUCTION, f"| family | {' | '.join(words)} |", "|---|---|---|"]
    for family, members in families.items():
        counts = Counter(map(result, members))
        lines.append(f"| {family} | {' | '.join(str(counts[word]) for word in words)} |")
    counts = Counter(map(result, cases))
    lines.append(f"| all | {' | '.join(str(counts[word]) for word in words)} |")
    lines += ["", _TARGETS, *targets.table(cases)]
    for family, members in families.items():
        lines += ["", f"## {family}", "", "| layout | result |", "|---|---|"]
        lines += [f"| {case.layout} | {_result(case)} |" for case in members]
    return "\n".join(lines) + "\n"


def _family(case: Case) -> str:
    return case.family


def _result(case: Case) -> str:
    return AGREES if case.refused is None else f"{REFUSED}: `{case.refused}`"


if __name__ == "__main__":
    PATH.write_text(markdown(CASES), encoding="utf-8")
