"""Group 9, early: signals to process 1 of a container, and too few threads or memory."""

import json
import os
import shutil
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path

from checks.faults.fault import Fault, NotApplicable, expect
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
    if os.getuid() != 0 or shutil.which("unshare") is None:
        raise NotApplicable("needs root and unshare")
    with target.start(before=["unshare", "--pid", "--fork", "--kill-child"]) as server:
        outside = server.process.pid
        children = Path(f"/proc/{outside}/task/{outside}/children")
        server.wait_until(children.read_text)
        first = int(children.read_text().split()[0])
        server.wait_until(lambda: when(first, server.log), pause_s=0.001)
        os.kill(first, signal.SIGTERM)
        expect(server.ends() == 0, "no clean end")


def _limited(flag: str, most: int, limit: str, target: Target) -> None:
    """The log is one line that names the limit, and the exit status is 1."""
    if os.getuid() != 0 or shutil.which("setpriv") is None or shutil.which("prlimit") is None:
        raise NotApplicable("needs root, setpriv and prlimit")
    before = [*_AS_NOBODY, "prlimit", f"--{flag}={most}"]
    with target.start({"NIM_JSONL_LOGGING": "1"}, before=before) as server:
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
