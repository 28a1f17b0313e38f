"""The verdicts of `make check-all`."""

import os
import re
import select
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from checks import all as check_all
from checks.all import FAILED, IMPOSSIBLE, OK, Result, judge, run, table
from checks.here import NOT_HERE, need_disk, need_memory, need_tools

ROOT = Path(__file__).resolve().parents[2]
# Checks that check-all leaves out: they need a GPU, real weights or a service, or are the suite.
LEFT_OUT = {"test-gpu", "test-anywhere", "check-real", "check-vl", "check-pubmedqa", "check-all"}


class Fake:
    """A target that is a line of Python."""

    def __init__(self, name: str, code: str) -> None:
        self.name = name
        self.limit_s = check_all.LIMIT_S
        self.command: Sequence[str] = [sys.executable, "-c", code]


@pytest.mark.parametrize(
    ("status", "printed", "verdict", "reason"),
    [
        (0, "one\n3 of 3\n\n", OK, "3 of 3"),
        (0, "", OK, "printed nothing"),
        # The text alone does not excuse a check, nor does a check that passes.
        (0, f"{NOT_HERE}no cards\n", OK, f"{NOT_HERE}no cards"),
        (
            2,
            f"log: {NOT_HERE}no cards\nmake: *** [x] Error 1\n",
            FAILED,
            f"log: {NOT_HERE}no cards",
        ),
        (2, f"one\n{NOT_HERE}no cards\nmake: *** [x] Error 1\n", IMPOSSIBLE, "no cards"),
        # Neither does another process's output.
        (
            2,
            f"{NOT_HERE}no cards\nFAULT it broke\nmake: *** [x] Error 1\n",
            FAILED,
            "FAULT it broke",
        ),
        (2, "two lines\nof it\nmake[1]: *** [x] Error 1\n", FAILED, "of it"),
        (-9, "", FAILED, "printed nothing"),
    ],
)
def test_verdicts(status: int, printed: str, verdict: str, reason: str) -> None:
    assert judge(status, printed) == (verdict, reason)


_LACKING = """
from checks.here import need_tools
print("begun")
need_tools({"no-such-tool": "pkg"})
"""


def test_goes_on_after_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    targets = (
        Fake("broken", "import sys; sys.exit('it broke')"),
        Fake("lacking", _LACKING),
        Fake("sound", "print('all held')"),
    )
    monkeypatch.setattr(check_all, "TARGETS", targets)
    monkeypatch.setattr(check_all, "ROOT", tmp_path)
    monkeypatch.setattr(check_all, "LOGS", tmp_path / "logs")
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    assert check_all.main([]) == 1
    output = capsys.readouterr().out
    rows = [line.split("  ") for line in output.partition("\ntarget ")[2].splitlines()]
    assert [row[0] for row in rows[1:4]] == ["broken", "lacking", "sound"]
    assert "apt-get install pkg" in output
    assert "  | it broke" in output
    assert re.search(r"1 ok, 1 failed, 1 not possible here; \d+ s\n$", output)
    assert (tmp_path / "logs" / "sound.log").read_text() == "all held\n"
    # A check that is not possible does not fail the run.
    assert check_all.main(["lacking", "sound"]) == 0


def test_an_unknown_target_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        check_all.main(["soak", "soap"])
    assert ended.value.code == 2
    assert "found soap, wanted some of" in capsys.readouterr().err


# The last argument is a named pipe, which the grandchild keeps open as long as it lives.
_STUBBORN = """
import os, signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)  # its children inherit that
if len(sys.argv) == 3:
    subprocess.Popen([sys.executable, *sys.argv[1:]])
else:
    alive = os.open(sys.argv[1], os.O_WRONLY)
    os.write(alive, str(os.getpid()).encode())
while True:
    time.sleep(60)
"""
_PATIENCE_S = 120


def test_a_hang_ends_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(check_all, "_STOP_S", 0.1)
    script, alive = tmp_path / "stubborn.py", tmp_path / "alive"
    script.write_text(_STUBBORN)
    os.mkfifo(alive)
    command = [sys.executable, str(script), str(script), str(alive)]
    output, limit_s = b"", 1
    reader = os.open(alive, os.O_RDONLY | os.O_NONBLOCK)
    try:
        while not output:  # the limit came before the grandchild
            assert limit_s < _PATIENCE_S, (tmp_path / "log").read_text()
            limit_s *= 2
            result = run("hang", command, tmp_path / "log", limit_s=limit_s)
            assert (result.verdict, result.reason) == (FAILED, f"did not end within {limit_s} s")
            output = os.read(reader, 100)
        closed, _, _ = select.select([reader], [], [], _PATIENCE_S)
        if not closed:
            os.kill(int(output), signal.SIGKILL)
        assert closed, "its child lives"
        assert os.read(reader, 100) == b""
    finally:
        os.close(reader)


def test_the_table_aligns() -> None:
    lines = table([Result("a", OK, 1.4, "x"), Result("longer", IMPOSSIBLE, 12.0, "no y")])
    assert lines == [
        "target  result             seconds",
        "a       ok                       1  x",
        "longer  not possible here       12  no y",
        "",
        "1 ok, 0 failed, 1 not possible here; 13 s",
    ]


def test_every_heavy_target_is_run_or_left_out_by_name() -> None:
    lines = (ROOT / "Makefile").read_text("utf-8").splitlines()
    (phony,) = (line for line in lines if line.startswith(".PHONY:"))
    known = set(phony.split()[1:])
    run_by_it = {target.name for target in check_all.TARGETS}
    assert run_by_it <= known
    heavy = {name for name in known if name.startswith(("check-", "test-"))}
    assert heavy - run_by_it <= LEFT_OUT


def test_tools_that_are_there_are_enough() -> None:
    need_tools({"sh": "dash"})


def test_memory_that_no_machine_has() -> None:
    need_memory(1)
    with pytest.raises(SystemExit, match=rf"^{NOT_HERE}found .* GB of free memory, wanted 1000000"):
        need_memory(1e15)


def test_room_that_no_disk_has(tmp_path: Path) -> None:
    need_disk(tmp_path / "not" / "made", 1)
    with pytest.raises(
        SystemExit, match=rf"^{NOT_HERE}found .* GB of free disk, wanted 1000000000"
    ):
        need_disk(tmp_path / "not" / "made", 1e18)
