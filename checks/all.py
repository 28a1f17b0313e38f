"""`make check-all`: every heavy check that needs no GPU, no real weights and no outside service.

    python -m checks.all [TARGET ...]

One after the other, each as `make TARGET`; a check that fails stops no other. What one prints goes
to build/check-all/TARGET.log. The table at the end has one of three words for each: ok, failed, or
not possible here, which is what the last line of a check says that lacks a command, memory or a
quiet machine. The exit status is 1 when one failed. The recipe begins anew: output/rerank-small is
made again.
"""

import argparse
import contextlib
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from checks.here import NOT_HERE

ROOT = Path(__file__).resolve().parent.parent
LOGS = ROOT / "build" / "check-all"
OK, FAILED, IMPOSSIBLE = "ok", "failed", "not possible here"
# Several times what a check takes: no hang eats the hour, and no slow machine is taken for one.
LIMIT_S = 1800.0
_STOP_S = 60.0
_SHOWN_LINES = 15
_REASON_CHARACTERS = 100


@dataclass(frozen=True)
class Target:
    """A target of the Makefile, the variables that it is given, and how long it may take."""

    name: str
    variables: tuple[str, ...] = ()
    limit_s: float = LIMIT_S

    @property
    def command(self) -> Sequence[str]:
        """What runs it."""
        return ["make", "--no-print-directory", "-C", str(ROOT), self.name, *self.variables]


# Short ones first.
TARGETS = (
    Target("check-tensorrt"),
    Target("check-sky"),
    Target("check-deploy"),
    Target("docs"),
    Target("test-heavy"),
    Target("check-triton"),
    Target("check-minilm"),
    Target("check-zoo"),
    Target("check-optimum"),
    Target("check-ray"),
    Target("check-network"),
    Target("test-page"),
    Target("test-contract"),
    Target("test-clients"),
    Target("overload"),
    Target("hostile"),
    Target("check-replicas"),
    Target("soak", ("MINUTES=2",)),
    Target("recipe", ("RECIPE=--force",)),  # what is finished is not done again
    Target("test-faults"),
    Target("image-test"),
    # Only a limit: it takes a third of the hour that all of them have.
    Target("check-1b", limit_s=2 * LIMIT_S),
)


@dataclass(frozen=True)
class Result:
    """How a target fared: its verdict, the seconds that it took, and why or with what result."""

    name: str
    verdict: str
    seconds: float
    said: str


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when no target failed."""
    chosen = _chosen(arguments)
    # As an exception, so that a check ends with us.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    print(f"{len(chosen)} checks, one after the other: {', '.join(one.name for one in chosen)}")
    print(f"what each of them prints: {LOGS.relative_to(ROOT)}/TARGET.log", flush=True)
    results: list[Result] = []
    try:
        for target in chosen:
            results.append(_run(target))  # noqa: PERF401 (what is done stands in the table)
    except KeyboardInterrupt:
        print("  interrupted: the table ends here")
        return 130
    finally:
        print("\n".join(["", *table(results)]))
    return 1 if any(result.verdict == FAILED for result in results) else 0


def _run(target: Target) -> Result:
    """Run it, and tell how it fares while others wait."""
    print(f"{target.name} …", flush=True)
    log = LOGS / f"{target.name}.log"
    result = run(target.name, target.command, log, target.limit_s)
    print(f"  {result.verdict}, {result.seconds:.0f} s: {result.said}", flush=True)
    if result.verdict == FAILED:
        print(textwrap.indent(_end_of(log), "  | "), flush=True)
    return result


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
    """Run one command in a process group of its own, which ends with it, and judge it."""
    log.parent.mkdir(parents=True, exist_ok=True)
    # A make of its own: it takes no jobs and no variables of the one that may have started us.
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
        return Result(name, FAILED, seconds, f"no end within {limit_s:.0f} s")
    verdict, said = judge(status, log.read_text(errors="replace"))
    return Result(name, verdict, seconds, said)


def judge(status: int, printed: str) -> tuple[str, str]:
    """The verdict on a command that ended with `status`, and the line that says why."""
    # make has its own words after those of a check that failed.
    lines = [line for line in printed.splitlines() if line.strip() and not _is_of_make(line)]
    last = lines[-1] if lines else "printed nothing"
    # Only as the last words: before them they may be those of another process.
    if status != 0 and last.startswith(NOT_HERE):
        return IMPOSSIBLE, last.removeprefix(NOT_HERE)
    return OK if status == 0 else FAILED, textwrap.shorten(last, _REASON_CHARACTERS)


def _is_of_make(line: str) -> bool:
    return line.startswith(("make:", "make["))


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End the process and whatever it has left in its group: politely, so that it can take its
    mounts and its own children down, then for good."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGTERM)
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(_STOP_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _end_of(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-_SHOWN_LINES:])


def table(results: Iterable[Result]) -> list[str]:
    """The results as lines of text, and one of totals."""
    results = list(results)
    rows = [("target", "result", "seconds", "")]
    rows += [(one.name, one.verdict, f"{one.seconds:.0f}", one.said) for one in results]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        f"{name:{widths[0]}}  {verdict:{widths[1]}}  {seconds:>{widths[2]}}  {said}".rstrip()
        for name, verdict, seconds, said in rows
    ]
    counts = (
        f"{sum(one.verdict == verdict for one in results)} {verdict}"
        for verdict in (OK, FAILED, IMPOSSIBLE)
    )
    return [*lines, "", f"{', '.join(counts)}; {sum(one.seconds for one in results):.0f} s"]


if __name__ == "__main__":
    sys.exit(main())
