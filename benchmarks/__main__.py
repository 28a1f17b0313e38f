"""`make bench`: measure, and write JSON, Markdown and plots into benchmarks/results/."""

import argparse
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from benchmarks import machine, report
from benchmarks.environments import ROOT, PeerMissing, interpreter, pinned
from benchmarks.folder import REPORT_FILE, RESULTS_FILE, results_folder
from benchmarks.models import MODELS
from benchmarks.progress import print_line
from benchmarks.results import CandidateFacts, Results
from benchmarks.roster import BY_NAME, CANDIDATES, Candidate
from benchmarks.scenarios import MAIN, QUICK, SCENARIOS, SHARED, SMALL_MODELS, Bench, Sizes
from runtime.outputs import exit_on_refusal, write_atomic
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
    scenarios = args.only or list(_default_scenarios(quick=args.quick))
    results = Results(
        began=time.strftime("%Y-%m-%d %H:%M"),
        commit=_commit(),
        options=" ".join(sys.argv[1:] if arguments is None else arguments),
        machine=machine.describe(),
        candidates={candidate.name: _facts(candidate) for candidate in chosen},
    )
    bench = Bench(
        candidates=chosen,
        scenarios=scenarios,
        sizes=QUICK if args.quick else Sizes(),
        results=results,
        save=lambda: _save(results, args.out),
        deadline=time.monotonic() + 60 * args.minutes,
    )
    with results_folder(args.out):
        for name in _models(scenarios, quick=args.quick):
            bench.run_model(MODELS[name])
        _save(results, args.out)
        _plot(args.out)
    print_line(f"written: {args.out}")
    measured = any(one.samples for point in results.points for one in point.measured.values())
    return 0 if measured else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "--only", type=_some_of(SCENARIOS), default=[], help=f"some of {','.join(SCENARIOS)}"
    )
    parser.add_argument(
        "--candidates",
        type=_some_of(tuple(BY_NAME)),
        default=[],
        help=f"some of {','.join(BY_NAME)}",
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


def _default_scenarios(*, quick: bool) -> Sequence[str]:
    return ("embedded", *SHARED) if quick else SCENARIOS


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


def _commit() -> str:
    done = subprocess.run(
        ["git", "describe", "--always", "--dirty"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.stdout.strip() or "unknown"


def _save(results: Results, folder: Path) -> None:
    """After every scenario, so that an interrupted run keeps its results."""
    content = msgspec.json.format(msgspec.json.encode(results), indent=1)
    write_atomic(folder / RESULTS_FILE, content)
    write_atomic(folder / REPORT_FILE, report.markdown(results).encode())


def _plot(folder: Path) -> None:
    try:
        python = interpreter("plots")
    except PeerMissing as missing:
        print_line(f"no plots: {missing}")
        return
    command = [str(python), "-m", "benchmarks.plots", str(folder.resolve())]
    if subprocess.run(command, cwd=ROOT, check=False).returncode != 0:
        print_line("no plots: see above")


if __name__ == "__main__":
    with exit_on_refusal():
        sys.exit(main())
