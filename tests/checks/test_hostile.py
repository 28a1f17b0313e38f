"""The verdicts of `make hostile`, and that its bodies are what their names say."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from checks.hostile.__main__ import Case, Found, _report
from checks.hostile.bodies import BODIES, FULL, MODEL
from checks.hostile.watch import Health
from checks.ports import free_port

CASE = Case("/rerank empty texts", 3, BODIES[0].answers | FULL, lambda: lambda: "400")
SOUND = Found(CASE, ["400", "503", "400"], 0.1, 2.0)


@pytest.mark.parametrize("size", [1 << 12, 1 << 16])
def test_bodies_have_their_size_and_a_name(size: int) -> None:
    for body in BODIES:
        found = len(body.make(size))
        assert size * 0.6 <= found <= size * 1.1 + 300, body.name
    assert len({body.name for body in BODIES}) == len(BODIES)


def test_every_surface_has_bodies() -> None:
    surfaces = {body.surface for body in BODIES}
    inferences = f"/v2/models/{MODEL}/infer"
    assert {"/v1/ranking", "/v1/embeddings", "/rerank", "/v2/rerank", "/score"} <= surfaces
    assert {"/tokenize", "/embed", inferences, "ModelInfer", "RepositoryModelLoad"} <= surfaces


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (SOUND, None),
        (Found(CASE, ["400"] * 3, 9.0, 2.0), None),  # late: reported, not a fault
        (Found(CASE, ["400", "500", "400"], 0.1, 2.0), "answered 500, wanted"),
        (Found(CASE, ["400", "closed", "no answer"], 0.1, 2.0), "answered closed, no answer"),
        (Found(CASE, ["400"] * 3, float("inf"), 2.0), "health did not answer"),
        (Found(CASE, ["400"] * 3, 0.1, 9.9), None),  # large, likewise
        (Found(CASE, ["400"] * 3, 0.1, 10.1), "10.1 times the memory"),
    ],
)
def test_what_is_a_fault(found: Found, words: str | None) -> None:
    faults = list(found.faults())
    assert len(faults) == (words is not None)
    assert all(words in fault for fault in faults if words)


def test_what_is_over_an_aim_is_marked(capsys: pytest.CaptureFixture[str]) -> None:
    late = Found(CASE, ["400"] * 3, 9.0, 6.1)
    assert late.line().endswith("9000 ms   6.1 x late large")
    assert SOUND.line().endswith(" x")
    assert _report([SOUND, late], []) == 0
    assert "longest stall 9000 ms, 1 over the aim of 250" in capsys.readouterr().out
    assert _report([SOUND], ["one"]) == 1


class Live(BaseHTTPRequestHandler):
    """Answers health, the first time with a delay."""

    protocol_version = "HTTP/1.1"
    held = threading.Event()

    def do_GET(self) -> None:
        assert self.path == "/v1/health/live"
        self.held.wait()
        self.send_response(200)
        self.send_header("content-length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def live() -> Iterator[int]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Live)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    thread.join()
    server.server_close()


def test_health_is_watched(live: int) -> None:
    release = threading.Timer(0.3, Live.held.set)
    release.start()
    with Health(live) as health:  # waits for the first answer, which is not counted
        assert 0 < health.longest_s() < float("inf")
    release.join()
    with Health(free_port()) as health:
        assert health.longest_s() == float("inf")
