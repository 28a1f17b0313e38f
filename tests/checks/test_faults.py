"""The suite of faults notices a server that is worse than ours, which `make test-faults` runs."""

import json
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from checks.faults import __main__ as suite
from checks.faults.fault import Fault


def run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, list[list[str]]]:
    """The exit status, and the lines in their columns."""
    monkeypatch.setattr(sys, "argv", ["faults", *arguments])
    status = suite.main()
    return status, [line.split("\t") for line in capsys.readouterr().out.splitlines()]


class Careless(BaseHTTPRequestHandler):
    """Ranks anything, and shows a stack trace for what it cannot read."""

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


def test_what_needs_a_process_is_left_out(
    careless: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    status, lines = run(monkeypatch, capsys, "--url", careless, "--only", "10 stop")
    assert status == 0
    assert {fault[2] for fault in lines[:-1]} == {"n/a"}


def test_names_are_distinct_and_every_group_has_a_fault() -> None:
    def number(fault: Fault) -> int:
        return int(fault.group.split()[0])

    assert len({(fault.group, fault.name) for fault in suite.FAULTS}) == len(suite.FAULTS)
    assert {number(fault) for fault in suite.FAULTS} == set(range(1, 16))
    assert not any("\t" in f"{fault.group}{fault.name}" for fault in suite.FAULTS)
