"""The suite of faults detects a server worse than ours; `make test-faults` runs it on ours."""

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from checks.faults import __main__ as suite
from checks.faults import target as targets
from checks.faults.fault import Broken, Fault, NotJudged
from checks.faults.target import Stopwatch, Target
from checks.here import NOT_HERE


def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, list[list[str]]]:
    """The exit status, and the lines in their columns."""
    monkeypatch.setattr(sys, "argv", ["faults", *arguments])
    status = suite.main()
    return status, [line.split("\t") for line in capsys.readouterr().out.splitlines()]


class Careless(BaseHTTPRequestHandler):
    """Ranks anything, and returns a stack trace for unreadable bodies."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        raw = self.rfile.read(int(self.headers["content-length"]))
        try:
            passages = json.loads(raw)["passages"]
            rankings = [{"index": i, "logit": 0.0} for i in range(len(passages))]
            status, body = 200, json.dumps({"rankings": rankings}).encode()
        except Exception:
            status, body = 500, b"Traceback (most recent call last)"
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def careless() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Careless)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_careless_server_fails(
    careless: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, lines = run(monkeypatch, capsys, "--url", careless, "--only", "1 body")
    found = {fault[1]: fault[2:] for fault in lines[:-1]}
    assert status == 1
    assert found["empty"][0] == "fail"
    assert "500" in found["empty"][2]
    assert "200" in found["lone surrogate"][2]


@pytest.mark.parametrize("group", ["8 scarce", "9 start", "10 stop", "11 engine"])
def test_what_needs_a_process_is_left_out(
    careless: str,
    group: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    status, lines = run(monkeypatch, capsys, "--url", careless, "--only", group)
    assert status == 0
    assert {fault[2] for fault in lines[:-1]} == {"n/a"}


def late(_: Target) -> None:
    raise NotJudged("late beside others")


def broken(_: Target) -> None:
    raise Broken("broken")


@pytest.mark.parametrize("broken_too", [False, True])
def test_what_was_late_beside_others_is_not_passed(
    broken_too: bool,
    careless: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    more = (Fault("7 load", "broken", broken),) if broken_too else ()
    monkeypatch.setattr(suite, "FAULTS", (Fault("7 load", "late", late), *more))
    if broken_too:
        status, lines = run(monkeypatch, capsys, "--url", careless)
        assert status == 1
        assert [line[2] for line in lines[:-1]] == ["late", "fail"]
        assert lines[-1] == ["total", "ok=0 fail=1 n/a=0 late=1"]
    else:
        with pytest.raises(SystemExit, match=f"^{NOT_HERE}1 not judged"):
            run(monkeypatch, capsys, "--url", careless)


class Others:
    """Other processes took this share of the machine."""

    taken = 0.0

    def share(self) -> float:
        return self.taken


@pytest.mark.parametrize(
    ("own", "taken", "raised"),
    [(True, 0.04, Broken), (True, 0.4, NotJudged), (False, 0.4, Broken)],
)
def test_a_late_answer(
    own: bool, taken: float, raised: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "Others", Others)
    monkeypatch.setattr(Others, "taken", taken)
    target = Target("http://127.0.0.1:1")
    target.own = object() if own else None  # type: ignore[assignment]
    watch = Stopwatch(target)
    watch.expect(5.0, "an answer", 4.9)
    with pytest.raises(raised, match=r"^an answer took 5.10 s"):
        watch.expect(5.0, "an answer", 5.1)
    with pytest.raises(raised):
        watch.expect(0.0, "an answer")
    target.http.close()


def test_without_times_nothing_is_late(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(targets, "Others", Others)
    monkeypatch.setattr(Others, "taken", 0.4)
    target = Target("http://127.0.0.1:1", timed=False)
    target.own = object()  # type: ignore[assignment]
    Stopwatch(target).expect(5.0, "an answer", 5.1)
    target.http.close()


def test_names_are_distinct_and_every_group_has_a_fault() -> None:
    def number(fault: Fault) -> int:
        return int(fault.group.split()[0])

    assert len({(fault.group, fault.name) for fault in suite.FAULTS}) == len(suite.FAULTS)
    assert {number(fault) for fault in suite.FAULTS} == set(range(1, 18))
    assert not any("\t" in f"{fault.group}{fault.name}" for fault in suite.FAULTS)
