"""A process that kills itself at each of the points where it touches a file, one after the other.

Python's audit hooks see every file that is opened, renamed, locked or removed, by any code.
The points are counted, not timed: the process is exactly there, however fast the machine is.
"""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
_SCRIPT = """
import os, signal, sys
{setup}

def _work():
{work}

def _whole():
{whole}

def seen(event, arguments):
    global left
    if left is not None and event in {events} and {mark} in str(arguments):
        left -= 1
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)

left, deaths = None, 0
for point in range({most}):
    child = os.fork()
    if not child:
        sys.addaudithook(seen)
        left = point
        _work()
        os._exit(0)
    _, status = os.waitpid(child, 0)
    _whole()
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == 0:
        print(deaths)
        sys.exit(0)
    assert os.WIFSIGNALED(status), status
    deaths += 1
sys.exit("it never came to its end")
"""
_EVENTS = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "fcntl.flock")


def die_everywhere(setup: str, work: str, whole: str, mark: str, *, most: int = 100) -> int:
    """How often the Python lines `work` died before they came to their end, at one more point each
    time; after each time `whole` asserts what must hold.

    Points are those whose arguments name `mark`. `setup` runs once, in a process without threads.
    """
    code = _SCRIPT.format(
        setup=setup,
        work=_indented(work),
        whole=_indented(whole),
        mark=repr(mark),
        most=most,
        events=_EVENTS,
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return int(done.stdout.split()[-1])


def _indented(lines: str) -> str:
    return "\n".join(f"    {line}" for line in lines.strip().splitlines())
