"""One subject in its own namespace: python -m checks.network.inside NAME FOLDER SWITCHES

Prints a Finding as JSON. Must be started by `unshare`, with its own network and mounts.
"""

import json
import os
import shutil
import socket
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path

from checks.network.places import ROOT, empty, files, places
from checks.network.subjects import SUBJECTS, Place
from checks.network.wire import RESOLVER, watched
from checks.serving import ServerFailed

# Read by Python at its start: removes the switches before our own code can set them.
_NO_SWITCHES = """
from runtime import telemetry
telemetry.SWITCHES = {}
telemetry.disable_telemetry = lambda: None
"""


@dataclass(frozen=True)
class Finding:
    """Packets that left, files that were left, and why the subject failed, if it did."""

    queries: list[str] = field(default_factory=list)
    connections: list[str] = field(default_factory=list)
    files: list[str] = field(default_factory=list)
    failure: str = ""

    @property
    def quiet(self) -> bool:
        """Whether nothing was found."""
        return not (self.queries or self.connections or self.files)


def main() -> None:
    """Watch the subject of the command line."""
    name, folder, switches = sys.argv[1], Path(sys.argv[2]), sys.argv[3] == "with"
    for one in places():
        empty(one)
    os.chdir(ROOT)  # enter it through the new mounts
    shutil.rmtree(folder, ignore_errors=True)
    # The places of user files and temporary files: all fresh, and expected to be empty at the end.
    own = folder / "home", folder / "tmp"
    for one in (*own, folder / "work", folder / "etc"):
        one.mkdir(parents=True)
    _set_up(folder / "etc")
    # Clean: ONNX Runtime and OpenVINO send nothing where CI is set.
    environment = {"PATH": os.environ["PATH"], "OMP_NUM_THREADS": "2"}
    environment |= {"HOME": str(own[0]), "TMPDIR": str(own[1])}
    if not switches:
        (folder / "etc" / "sitecustomize.py").write_text(_NO_SWITCHES)
        environment["PYTHONPATH"] = str(folder / "etc")
    place = Place(environment, folder / "work", folder / "log")
    failure = ""
    with watched() as seen:
        try:
            SUBJECTS[name](place)
        except (subprocess.CalledProcessError, ServerFailed, OSError) as error:
            failure = f"{error}; see {place.log}"
        except Exception as error:  # whatever the error, report the findings so far
            failure = f"{type(error).__name__}: {error}; see {place.log}"
    if seen.missed:
        failure = failure or f"{seen.missed} packets came too fast to be read"
    left = [str(path.relative_to(folder)) for top in own for path in files(top)]
    left += [str(path) for top in places() for path in files(top)]
    found = Finding(list(seen.queries), list(seen.connections), left, failure)
    json.dump(asdict(found), sys.stdout)


def _set_up(folder: Path) -> None:
    """Make every address local, and the resolver ours."""
    for arguments in (
        ("link", "set", "lo", "up"),
        ("route", "add", "local", "0.0.0.0/0", "dev", "lo"),
        ("-6", "route", "add", "local", "::/0", "dev", "lo"),
    ):
        # A machine without IPv6 needs no route for it.
        subprocess.run(["ip", *arguments], check="-6" not in arguments, stderr=subprocess.DEVNULL)
    texts = {
        "resolv.conf": f"nameserver {RESOLVER}\n",
        "hosts": f"127.0.0.1 localhost {socket.gethostname()}\n::1 localhost\n",
        "nsswitch.conf": "hosts: files dns\n",
    }
    for name, text in texts.items():
        (folder / name).write_text(text)
        place = Path("/etc") / name
        if place.exists():
            subprocess.run(["mount", "--bind", folder / name, place.resolve()], check=True)


if __name__ == "__main__":
    main()
