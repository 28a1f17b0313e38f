"""`make check-network`: our processes make no outgoing calls and leave no unrequested files.

Server, exporter and recipe run one by one in their own network namespaces, in which every address
is local and the check provides the resolver and port 443, with fresh folders for HOME, TMPDIR and
the places of checks/network/places.py. They run longer than the longest delay before a first call
that was ever seen. A queried name, a packet to anywhere but loopback, or a leftover file fails the
check. A control process does all three; the check also fails when that is not detected.

    python -m checks.network --without-switches

shows what runtime/telemetry.py turns off: it fails as long as ONNX Runtime and OpenVINO send
telemetry.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from checks.here import need_tools, not_here
from checks.network.inside import Finding
from checks.network.places import ROOT, places
from checks.network.subjects import CONTROL, SUBJECTS

OUT = ROOT / "build" / "check-network"
_AT_ONCE = 2  # they mostly wait
_LIMIT_S = 1500  # a hang
_MAX_LISTED = 3


@dataclass(frozen=True)
class Row:
    """The findings for one subject, and whether they are right."""

    name: str
    found: Finding
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether nothing was found (for the control: everything)."""
        if self.found.failure:
            return False
        if self.name == CONTROL:
            left = len(self.found.files) == 2 + len(places())  # HOME, TMPDIR and these
            return bool(self.found.queries and self.found.connections and left)
        return self.found.quiet


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when nothing was found except for the control."""
    parser = argparse.ArgumentParser(
        prog="python -m checks.network",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--without-switches",
        action="store_true",
        help="let the packages send telemetry, to show that they do",
    )
    args = parser.parse_args(arguments)
    need_tools(
        {**dict.fromkeys(("unshare", "setpriv"), "util-linux"), "mount": "mount", "ip": "iproute2"}
    )
    _need_namespaces()
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        rows = list(pool.map(lambda name: _watch(name, not args.without_switches), SUBJECTS))
    print("\n".join(table(rows)))
    return 0 if all(row.passed for row in rows) else 1


def table(rows: Sequence[Row]) -> list[str]:
    """One line for each subject, with its findings below it."""
    width = max(len(row.name) for row in rows)
    lines = [f"{'process':{width}}  queries  connections  files  seconds  result"]
    for row in rows:
        listed = {word: getattr(row.found, word) for word in ("queries", "connections", "files")}
        counts = "  ".join(f"{len(items):{len(word)}}" for word, items in listed.items())
        verdict = "ok" if row.passed else "failed"
        lines.append(f"{row.name:{width}}  {counts}  {row.seconds:7.0f}  {verdict}")
        lines += [
            f"  {word}: {', '.join([*items[:_MAX_LISTED], *['…'] * (len(items) > _MAX_LISTED)])}"
            for word, items in listed.items()
            if items
        ]
        lines += [f"  {row.found.failure}"] if row.found.failure else []
    return lines


def _watch(name: str, switches: bool) -> Row:
    began = time.monotonic()
    folder = OUT / re.sub(r"\W+", "-", name)
    command = [*_unshare(), sys.executable, "-m", "checks.network.inside"]
    command += [name, str(folder), "with" if switches else "without"]
    try:
        done = subprocess.run(
            command, cwd=ROOT, stdout=subprocess.PIPE, text=True, timeout=_LIMIT_S, check=False
        )
        found = Finding(**json.loads(done.stdout))
    except subprocess.TimeoutExpired:
        found = Finding(failure=f"no end within {_LIMIT_S} s; see {folder / 'log'}")
    except ValueError:
        found = Finding(failure=f"the watcher itself ended with {done.returncode}; see above")
    return Row(name, found, time.monotonic() - began)


def _unshare() -> list[str]:
    """The command prefix that creates a network and a mount namespace."""
    mapped = [] if os.geteuid() == 0 else ["--map-root-user"]
    own = ("--net", "--mount", "--pid", "--mount-proc", "--fork", "--kill-child")
    # Its processes end with it, and it ends with this process.
    return ["setpriv", "--pdeathsig", "KILL", "unshare", *mapped, *own]


def _need_namespaces() -> None:
    done = subprocess.run([*_unshare(), "true"], capture_output=True, text=True, check=False)
    if done.returncode:
        not_here(
            f"no network namespace can be made ({done.stderr.strip()}), wanted root "
            "with CAP_SYS_ADMIN, or user namespaces for others"
        )


if __name__ == "__main__":
    sys.exit(main())
