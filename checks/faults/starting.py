"""Group 9, early: signals to process 1 of a container, and too few threads or memory."""

import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from checks.faults.fault import Fault, NotApplicable, expect
from checks.faults.own import START_S, OwnServer, started
from checks.faults.target import Target

_START = "9 start"
_NOBODY = 65534
_MIB = 1 << 20
# Capabilities of a user with root's read access, so that thread limits apply to it.
_READS = "+dac_override,+dac_read_search"
_AS_NOBODY = (
    *("setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"),
    *(f"--inh-caps={_READS}", f"--ambient-caps={_READS}"),
)


def _imports(pid: int, log: str) -> bool:  # noqa: ARG001
    """Whether it imports what it needs."""
    return "_multiarray_umath" in Path(f"/proc/{pid}/maps").read_text()


def _says_something(pid: int, log: str) -> bool:  # noqa: ARG001
    return bool(log)


def _signalled_early(when: Callable[[int, str], bool], target: Target) -> None:
    """As process 1 of a namespace, to which the kernel sends no signals without a handler."""
    if target.rank_dir is None:
        raise NotApplicable("needs a server of our own")
    if os.getuid() != 0 or shutil.which("unshare") is None:
        raise NotApplicable("needs root and unshare")
    given = {"NIM_CUSTOM_MODEL": str(target.rank_dir)}
    before = ["unshare", "--pid", "--fork", "--kill-child"]
    with (
        tempfile.TemporaryDirectory() as name,
        started(Path(name), given, before=before) as server,
    ):
        first = _first_process(server)
        _until(lambda: when(first, server.log))
        os.kill(first, signal.SIGTERM)
        expect(server.ends() == 0, "no clean end")


def _first_process(server: OwnServer) -> int:
    children = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children")
    _until(lambda: bool(children.read_text()))
    return int(children.read_text().split()[0])


def _until(true: Callable[[], bool]) -> None:
    end = time.monotonic() + START_S
    while not true():
        expect(time.monotonic() < end, "it did not get that far")
        time.sleep(0.001)


def _limited(flag: str, most: int, limit: str, target: Target) -> None:
    """The log is one line that names the limit, and the exit status is 1."""
    if target.rank_dir is None:
        raise NotApplicable("needs a server of our own")
    if os.getuid() != 0 or shutil.which("setpriv") is None or shutil.which("prlimit") is None:
        raise NotApplicable("needs root, setpriv and prlimit")
    given = {"NIM_CUSTOM_MODEL": str(target.rank_dir), "NIM_JSONL_LOGGING": "1"}
    before = [*_AS_NOBODY, "prlimit", f"--{flag}={most}"]
    with (
        tempfile.TemporaryDirectory() as name,
        started(Path(name), given, before=before) as server,
    ):
        expect(server.ends() == 1, "it did not end with 1")
        lines = server.log.splitlines()
        expect(len(lines) == 1, f"found {len(lines)} lines, wanted one")
        expect(limit in json.loads(lines[0])["message"], f"the line does not name {limit}")


FAULTS: tuple[Fault, ...] = (
    Fault(_START, "SIGTERM to process 1 that imports", partial(_signalled_early, _imports)),
    Fault(_START, "SIGTERM to process 1 that speaks", partial(_signalled_early, _says_something)),
    *(
        Fault(_START, f"{most} threads", partial(_limited, "nproc", most, "RLIMIT_NPROC"))
        for most in (6, 11, 17)
    ),
    *(
        Fault(_START, f"{most} MiB", partial(_limited, "as", most * _MIB, "RLIMIT_AS"))
        for most in (64, 256, 1024)
    ),
)
