"""`make bench`: measure, and write JSON, Markdown and plots into benchmarks/results/."""

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

from benchmarks import machine, report
from benchmarks.environments import ROOT, PeerMissing, pinned, printed_by
from benchmarks.folder import results_folder, save
from benchmarks.models import MODELS
from benchmarks.progress import print_line
from benchmarks.results import CandidateFacts, Results
from benchmarks.roster import BY_NAME, CANDIDATES, Candidate
from benchmarks.scenarios import MAIN, QUICK, SCENARIOS, SHARED, SMALL_MODELS, Bench, Sizes
from runtime.outputs import exit_on_refusal
from runtime.telemetry import disable_telemetry

_TERMINATED = 143
RESULTS = Path(__file__).with_name("results")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the chosen benchmarks; 0 unless nothing could be measured."""
    disable_telemetry()
    args = _parser().parse_args(arguments)
    # The candidates are in sessions of their own: only this process can end them.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(_TERMINATED))
    chosen = [BY_NAME[name] for name in args.candidates] or list(CANDIDATES)
    scenarios = args.only or (["embedded", *SHARED] if args.quick else SCENARIOS)
    asked = ["git", "-C", str(ROOT), "describe", "--always", "--dirty"]
    commit = subprocess.run(asked, capture_output=True, text=True, check=False)
    results = Results(
        began=time.strftime("%Y-%m-%d %H:%M"),
        commit=commit.stdout.strip() or "unknown",
        options=" ".join(sys.argv[1:] if arguments is None else arguments),
        machine=machine.describe(),
        candidates={candidate.name: _facts(candidate) for candidate in chosen},
    )
    bench = Bench(
        candidates=chosen,
        scenarios=scenarios,
        sizes=QUICK if args.quick else Sizes(),
        results=results,
        save=lambda: save(args.out, asdict(results), report.markdown(results)),
        deadline=time.monotonic() + 60 * args.minutes,
    )
    with results_folder(args.out):
        for name in _models(scenarios, quick=args.quick):
            bench.run_model(MODELS[name].shallow(args.layers))
        bench.save()
        try:
            printed_by("plots", "benchmarks.plots", str(args.out.resolve()))
        except PeerMissing as missing:
            print_line(f"no plots: {missing}")
    print_line(f"written: {args.out}")
    measured = any(one.samples for point in results.points for one in point.measured.values())
    return 0 if measured else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--only", type=_some_of(SCENARIOS), default=[], help=f"some of {','.join(SCENARIOS)}"
    )
    parser.add_argument(
        "--candidates", type=_some_of([*BY_NAME]), default=[], help=f"some of {','.join(BY_NAME)}"
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a few short passages, the embedded model unless --only names another: to check that "
        "candidates work, not their speed",
    )
    parser.add_argument(
        "--minutes", type=float, default=90, help="no turn starts after this time (%(default)s)"
    )
    parser.add_argument(
        "--layers", type=int, help="of the large models, instead of their own: to save time"
    )
    parser.add_argument("--out", type=Path, default=RESULTS, help="the folder to write to")
    return parser


def _some_of(names: Sequence[str]) -> Callable[[str], list[str]]:
    def parse(text: str) -> list[str]:
        found = text.split(",")
        if unknown := [name for name in found if name not in names]:
            raise argparse.ArgumentTypeError(
                f"found {', '.join(unknown)}, wanted some of {', '.join(names)}"
            )
        return found

    return parse


def _models(scenarios: Sequence[str], *, quick: bool) -> list[str]:
    """The models to run, the slow one last. Scenarios shared by small models run on the named ones,
    or on both."""
    wanted = {name for name in scenarios if name in MAIN}
    if not wanted & set(SMALL_MODELS) and any(name in SHARED for name in scenarios):
        wanted |= {"embedded"} if quick else set(SMALL_MODELS)
    return [name for name in MAIN if name in wanted]


def _facts(candidate: Candidate) -> CandidateFacts:
    return CandidateFacts(
        version="this checkout" if candidate.peer is None else pinned(candidate.peer),
        precision=candidate.precision,
        ours=candidate.ours,
        serves=candidate.serves,
        note=candidate.note,
    )


if __name__ == "__main__":
    with exit_on_refusal():
        sys.exit(main())
