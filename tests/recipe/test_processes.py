"""Process identity in files: no other process is mistaken for it, and no other one is stopped."""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from recipe import processes
from recipe.config import DeployConfig
from recipe.errors import OutputRefused
from recipe.launchers import ENDPOINT_FILE, ProcessLauncher, Record, detached_endpoint
from recipe.processes import Started, find_process, read_started, write_started

# Its command line contains that of a server.
_WAITS = "print(flush=True); input()  # rerank-serve"


@pytest.fixture
def stranger() -> Iterator["subprocess.Popen[bytes]"]:
    """A process that has started, and waits."""
    command = [sys.executable, "-c", _WAITS]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        assert running.stdout is not None
        running.stdout.readline()
        yield running
        running.kill()


def started(running: "subprocess.Popen[bytes]") -> Started:
    found = find_process(running.pid)
    assert found is not None
    return found


def others(found: Started) -> list[Started]:
    """Processes that had the same pid: earlier, or before the last boot."""
    return [
        msgspec.structs.replace(found, start_ticks=found.start_ticks - 1),
        msgspec.structs.replace(found, boot="another"),
    ]


def test_a_file_names_the_process_until_it_ends(
    tmp_path: Path, stranger: "subprocess.Popen[bytes]"
) -> None:
    file = tmp_path / "server.pid"
    write_started(file, stranger.pid)
    found = read_started(file)
    assert found == started(stranger)
    found.end()
    assert not found.runs()  # although nothing has reaped it
    assert read_started(file) is None
    stranger.wait()
    found.end()
    write_started(file, stranger.pid)
    assert read_started(file) is None


def test_a_script_that_executes_a_program_in_its_place_stays_the_same(tmp_path: Path) -> None:
    """Like pip's wrappers under a long path, or one with blanks."""
    file = tmp_path / "server.pid"
    script = 'read go; exec "$0" -c "print(flush=True); input()"'
    command = ["/bin/sh", "-c", script, sys.executable]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        write_started(file, running.pid)
        running.stdin.write(b"go\n")
        running.stdin.flush()
        running.stdout.readline()
        found = read_started(file)
        assert found is not None
        found.end()
        assert running.wait() < 0


def test_a_process_without_a_command_line_is_known(
    tmp_path: Path, stranger: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    """Linux may wake the parent before the child has a command line."""
    found, proc = started(stranger), tmp_path / str(stranger.pid)
    proc.mkdir()
    (proc / "cmdline").touch()
    shutil.copyfile(f"/proc/{stranger.pid}/stat", proc / "stat")
    monkeypatch.setattr(processes, "_PROC", tmp_path)
    write_started(tmp_path / "server.pid", stranger.pid)
    assert read_started(tmp_path / "server.pid") == found


def test_a_process_that_is_hidden_is_nobody_s(
    tmp_path: Path, stranger: "subprocess.Popen[bytes]", monkeypatch: pytest.MonkeyPatch
) -> None:
    """The mount option hidepid=1 hides the processes of other users."""
    file = tmp_path / "server.pid"
    write_started(file, stranger.pid)
    hidden, read = Path(f"/proc/{stranger.pid}/stat"), Path.read_text

    # Tests may run as root, who sees all processes.
    def refuse(path: Path, *given: Any, **named: Any) -> str:
        if path == hidden:
            raise PermissionError(errno.EPERM, os.strerror(errno.EPERM))
        return read(path, *given, **named)

    found = started(stranger)
    monkeypatch.setattr(Path, "read_text", refuse)
    assert find_process(stranger.pid) is None
    assert read_started(file) is None
    found.end()
    assert stranger.poll() is None


def test_whoever_has_the_number_now_is_left_alone(
    tmp_path: Path, stranger: "subprocess.Popen[bytes]"
) -> None:
    for other in others(started(stranger)):
        other.end()
        (tmp_path / "server.pid").write_bytes(msgspec.json.encode(other))
        assert read_started(tmp_path / "server.pid") is None
    assert stranger.poll() is None


@pytest.mark.parametrize("content", ["{pid}\n", "", "{{}}", "\x00"])
def test_a_file_that_tells_less_is_not_trusted(
    tmp_path: Path, stranger: "subprocess.Popen[bytes]", content: str
) -> None:
    """A file of an early version, or one that the disk lost."""
    (tmp_path / "server.pid").write_text(content.format(pid=stranger.pid))
    assert read_started(tmp_path / "server.pid") is None


def test_a_deployment_takes_no_stranger_for_its_endpoint(
    tmp_path: Path, stranger: "subprocess.Popen[bytes]"
) -> None:
    handle = str(stranger.pid)
    record = Record(url="http://x", launcher="process", handle=handle, stop=f"kill {handle}")
    (tmp_path / ENDPOINT_FILE).write_bytes(msgspec.json.encode(record))
    file, log = tmp_path / "server.pid", tmp_path / "server.log"
    launcher = ProcessLauncher(DeployConfig(), tmp_path, log, None, replace=False)
    for other in others(started(stranger)):
        file.write_bytes(msgspec.json.encode(other))
        assert detached_endpoint(tmp_path) is None
        launcher.check()
    write_started(file, stranger.pid)
    assert detached_endpoint(tmp_path) == record
    with pytest.raises(OutputRefused, match=f"kill {handle}"):
        launcher.check()
