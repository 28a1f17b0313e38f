"""A device that is lost: the container has to be restarted. An engine elsewhere that is away: no
requests, until it is back."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

Start = Callable[..., Any]

# The mock, whose device goes away at a text of more than 100 bytes.
_LOSE = """
import sys
from runtime.engines.mock import MockEngine
from runtime.errors import DeviceLost
from server.cli import main

compute = MockEngine.run

def run(self, inputs):
    if inputs["input_ids"].shape[1] > 100:
        raise DeviceLost
    return compute(self, inputs)

MockEngine.run = run
sys.exit(main())
"""


def test_health_asks_for_a_restart(start: Start) -> None:
    server = start({"ENABLE_MOCK_INFERENCE": "1"}, "-c", _LOSE).ready()
    body = {"query": {"text": "q"}, "passages": [{"text": "short"}]}
    assert server.rank(body).status_code == 200
    lost = server.rank({**body, "passages": [{"text": "long " * 30}]})
    assert lost.status_code == 503
    assert "needs a new process" in lost.json()["message"]
    assert server.get("/v1/health/live").status_code == 503
    assert server.get("/v1/health/live").json()["message"] == "Service is not live."
    assert server.get("/v2/health/live").status_code == 503
    assert server.get("/v1/health/ready").status_code == 503
    assert server.rank(body).status_code == 503
    assert server.stop() == 0


# The mock, as an engine in another process that is away while a file exists.
_AWAY = """
import os, sys
from runtime.engines.mock import MockEngine
from runtime.errors import EngineAway
from server.cli import main

FILE, ASKED = sys.argv.pop(1), sys.argv.pop(1)
compute = MockEngine.run

def run(self, inputs):
    if os.path.exists(FILE):
        with open(ASKED, "a") as asked:
            asked.write("x")
        raise EngineAway
    return compute(self, inputs)

MockEngine.run = run
sys.exit(main())
"""


def test_not_ready_while_the_engine_is_away(start: Start, tmp_path: Path) -> None:
    away = tmp_path / "away"
    asked = tmp_path / "asked"
    given = {"ENABLE_MOCK_INFERENCE": "1"}
    server = start(given, "-c", _AWAY, str(away), str(asked)).ready()
    body = {"query": {"text": "q"}, "passages": [{"text": "short"}]}
    assert server.rank(body).status_code == 200
    away.touch()
    refused = server.rank(body)
    assert refused.status_code == 503
    assert refused.headers["retry-after"]
    assert server.get("/v1/health/ready").status_code == 503
    assert server.get("/v2/health/ready").status_code == 503
    assert server.get("/v2/models/nvidia_llama_nemotron_rerank_1b_v2/ready").status_code == 503
    assert server.get("/health").json()["status"] == "failed"
    # A restart would not bring the other process back.
    assert server.get("/v1/health/live").status_code == 200
    server.wait_until(lambda: len(asked.read_text()) >= 5)
    # Told once by the call that failed, and once by who asks again.
    assert server.log.count("the engine cannot be reached") <= 2
    away.unlink()
    # Without any request: none comes to a server that is not ready.
    server.ready()
    assert server.rank(body).status_code == 200
    assert "the engine is back" in server.log
    assert server.stop() == 0
    assert "Traceback" not in server.log
