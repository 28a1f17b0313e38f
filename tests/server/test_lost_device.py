"""A device that is lost: the container has to be restarted, and says so."""

from collections.abc import Callable
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
