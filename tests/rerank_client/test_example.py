"""examples/retrieve_then_rerank.py as a user runs it."""

import os
import subprocess
import sys
from pathlib import Path

from tests.rerank_client.scripted_server import Say, ScriptedServer, ranking

ROOT = Path(__file__).resolve().parents[2]
EXAMPLE = "examples/retrieve_then_rerank.py"
# Without delays between attempts.
AT_ONCE = f"""
import runpy, time
time.sleep = lambda seconds: None
runpy.run_path({EXAMPLE!r}, run_name="__main__")
"""
CANDIDATES = 15
QUESTION = "a calm sound to focus"


def run(url: str, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", *command],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "RERANK_URL": url},
        capture_output=True,
        text=True,
        check=True,
    )


def titles(done: subprocess.CompletedProcess[str]) -> list[str]:
    _, *lines = done.stdout.splitlines()
    return [line.split(". ", 1)[1].split("  ")[0] for line in lines]


def test_the_five_best_of_fifteen_candidates(server: ScriptedServer) -> None:
    server.script = [ranking([float(place) for place in range(CANDIDATES)])]
    done = run(server.url, EXAMPLE, *QUESTION.split())
    assert done.stdout.startswith(f"{QUESTION!r}: reranked\n")
    assert not done.stderr
    (request,) = server.requests
    asked = request.json
    assert asked["query"] == QUESTION
    assert asked["top_n"] == 5
    # The script gave the last candidate the best score.
    last = [document.split(":")[0] for document in reversed(asked["documents"])]
    assert titles(done) == last[:5]
    assert len(last) == CANDIDATES
    assert asked["documents"][0].startswith("Deep Hour: plays calm sounds that help you focus")


def test_it_keeps_answering_while_the_server_refuses(server: ScriptedServer) -> None:
    server.script = [Say(401, b'{"message":"no key"}')]
    done = run(server.url, EXAMPLE)
    assert "not reranked, as searched" in done.stdout
    assert "status 401: no key" in done.stderr
    asked = server.requests[0].json["documents"]
    assert titles(done) == [document.split(":")[0] for document in asked[:5]]


def test_it_keeps_answering_while_the_server_is_down(dead_url: str) -> None:
    done = run(dead_url, "-c", AT_ONCE)
    assert "not reranked, as searched" in done.stdout
    assert len(titles(done)) == 5
    assert "WARNING not reranked, the given order is kept: POST http://127.0.0.1:" in done.stderr
