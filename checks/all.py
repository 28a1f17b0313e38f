"""`make check-all`: every heavy check that needs no GPU, no real weights and no outside service.

    python -m checks.all [TARGET ...]

Runs them one after another, each as `make TARGET`; a failed check does not stop the others. The
output of a check goes to build/check-all/TARGET.log. The table at the end has one of three verdicts
for each: ok, failed, or not possible here, which the last line of a check says when a command,
memory or a quiet machine is missing. The exit status is 1 when one failed. The recipe starts over:
output/rerank-small is made again.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from checks.here import NOT_HERE

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / "build" / "check-all"
OK, FAILED, IMPOSSIBLE = "ok", "failed", "not possible here"
# Several times what a check takes: a hang does not use up the hour, a slow machine is no hang.
LIMIT_S = 1800.0
_STOP_S = 60.0
_MAX_LINES = 15
_MAX_REASON = 100


@dataclass(frozen=True)
class Target:
    """A target of the Makefile, its variables, and its time limit."""

    name: str
    variables: tuple[str, ...] = ()
    limit_s: float = LIMIT_S

    @property
    def command(self) -> Sequence[str]:
        """The command line."""
        return ["make", "--no-print-directory", "-C", str(ROOT), self.name, *self.variables]


# Short ones first.
TARGETS = (
    *map(Target, ("check-tensorrt", "check-sky", "check-deploy", "docs", "test-heavy")),
    *map(Target, ("check-triton", "check-minilm", "check-zoo", "check-optimum", "check-ray")),
    *map(
        Target,
        ("check-cuda", "check-network", "test-page", "test-contract", "test-clients", "overload"),
    ),
    *map(Target, ("hostile", "check-replicas")),
    Target("soak", ("MINUTES=2",)),
    Target("recipe", ("RECIPE=--force",)),  # without it, finished stages are skipped
    *map(Target, ("test-faults", "image-test")),
    # Only a limit: it takes a third of the hour that all checks have.
    Target("check-1b", limit_s=2 * LIMIT_S),
)


@dataclass(frozen=True)
class Result:
    """The result of a target: verdict, seconds, and the reason or a summary."""

    name: str
    verdict: str
    seconds: float
    reason: str


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when no target failed."""
    chosen = _chosen(arguments)
    # Turn SIGTERM into an exception, so that a check ends with this process.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    print(f"{len(chosen)} checks, one after another: {', '.join(one.name for one in chosen)}")
    print(f"their output: {LOGS.relative_to(ROOT)}/TARGET.log", flush=True)
    results: list[Result] = []
    try:
        for target in chosen:
            print(f"{target.name} …", flush=True)
            log = LOGS / f"{target.name}.log"
            result = run(target.name, target.command, log, target.limit_s)
            results.append(result)  # one by one: an interrupt keeps those so far
            print(f"  {result.verdict}, {result.seconds:.0f} s: {result.reason}", flush=True)
            if result.verdict == FAILED:
                end = log.read_text(errors="replace").splitlines()[-_MAX_LINES:]
                print(textwrap.indent("\n".join(end), "  | "), flush=True)
    except KeyboardInterrupt:
        print("  interrupted: the table ends here")
        return 130
    finally:
        print("\n".join(["", *table(results)]))
    return 1 if any(result.verdict == FAILED for result in results) else 0


def _chosen(arguments: Sequence[str] | None) -> list[Target]:
    names = [target.name for target in TARGETS]
    parser = argparse.ArgumentParser(
        prog="python -m checks.all",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("target", nargs="*", help=f"some of {', '.join(names)}; none: all of them")
    named = parser.parse_args(arguments).target
    if unknown := [name for name in named if name not in names]:
        parser.error(f"found {', '.join(unknown)}, wanted some of {', '.join(names)}")
    return [target for target in TARGETS if not named or target.name in named]


def run(name: str, command: Sequence[str], log: Path, limit_s: float = LIMIT_S) -> Result:
    """Run one command in its own process group, end the group with it, and judge the result."""
    log.parent.mkdir(parents=True, exist_ok=True)
    # A make of its own: without the jobs and variables of the make that may have started us.
    outer = {"MAKEFLAGS", "MAKELEVEL", "MFLAGS", "MAKEOVERRIDES"}
    environment = {key: value for key, value in os.environ.items() if key not in outer}
    began = time.monotonic()
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status: int | None = process.wait(limit_s)
        except subprocess.TimeoutExpired:
            status = None
        finally:
            _end(process)
    seconds = time.monotonic() - began
    if status is None:
        return Result(name, FAILED, seconds, f"did not end within {limit_s:.0f} s")
    verdict, reason = judge(status, log.read_text(errors="replace"))
    return Result(name, verdict, seconds, reason)


def judge(status: int, printed: str) -> tuple[str, str]:
    """The verdict on a command that ended with `status`, and the line that says why."""
    # make adds lines of its own after those of a failed check.
    lines = (x for x in reversed(printed.splitlines()) if not x.startswith(("make:", "make[")))
    last = next((line for line in lines if line.strip()), "printed nothing")
    # Only in the last line: earlier lines may come from another process.
    if status != 0 and last.startswith(NOT_HERE):
        return IMPOSSIBLE, last.removeprefix(NOT_HERE)
    return OK if status == 0 else FAILED, textwrap.shorten(last, _MAX_REASON)


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End the process and its group: with SIGTERM first, so that it can remove its mounts and its
    own children, then with SIGKILL."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def table(results: Iterable[Result]) -> list[str]:
    """The results as lines of text, with a line of totals."""
    results = list(results)
    rows = [("target", "result", "seconds", "")]
    rows += [(one.name, one.verdict, f"{one.seconds:.0f}", one.reason) for one in results]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        f"{name:{widths[0]}}  {verdict:{widths[1]}}  {seconds:>{widths[2]}}  {reason}".rstrip()
        for name, verdict, seconds, reason in rows
    ]
    found = Counter(one.verdict for one in results)
    counts = ", ".join(f"{found[verdict]} {verdict}" for verdict in (OK, FAILED, IMPOSSIBLE))
    return [*lines, "", f"{counts}; {sum(one.seconds for one in results):.0f} s"]


if __name__ == "__main__":
    sys.exit(main())
