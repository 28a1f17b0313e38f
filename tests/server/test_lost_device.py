"""A device that is lost: the container has to be restarted. An engine elsewhere that is away: no
requests, until it is back."""

import logging
from threading import Event
from typing import Any

import pytest

from runtime.engines.mock import MockEngine
from runtime.errors import DeviceLost, EngineUnreachable
from server import loading
from tests.server.in_process import Serve
from tests.server.surfaces.kserve_requests import RANK
from tests.waiting import wait_until

MOCK = {"ENABLE_MOCK_INFERENCE": "1"}
BODY = {"query": {"text": "q"}, "passages": [{"text": "short"}]}
compute = MockEngine.run


def test_health_asks_for_a_restart(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    def lose(self: MockEngine, inputs: Any) -> Any:
        if inputs["input_ids"].shape[1] > 100:
            raise DeviceLost
        return compute(self, inputs)

    monkeypatch.setattr(MockEngine, "run", lose)
    server = serve(MOCK)
    assert server.rank(BODY).status_code == 200
    lost = server.rank({**BODY, "passages": [{"text": "long " * 30}]})
    assert lost.status_code == 503
    assert "needs a new process" in lost.json()["message"]
    assert server.get("/v1/health/live").status_code == 503
    assert server.get("/v1/health/live").json()["message"] == "Service is not live."
    assert server.get("/v2/health/live").status_code == 503
    assert server.get("/v1/health/ready").status_code == 503
    assert server.rank(BODY).status_code == 503


def test_not_ready_while_the_engine_is_unreachable(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    unreachable, asked = Event(), []

    def run(self: MockEngine, inputs: Any) -> Any:
        if unreachable.is_set():
            asked.append(self)
            raise EngineUnreachable
        return compute(self, inputs)

    caplog.set_level(logging.INFO)
    monkeypatch.setattr(MockEngine, "run", run)
    monkeypatch.setattr(loading, "_WATCHDOG_INTERVAL_S", 0.01)
    server = serve(MOCK)
    assert server.rank(BODY).status_code == 200
    unreachable.set()
    refused = server.rank(BODY)
    assert refused.status_code == 503
    assert refused.headers["retry-after"]
    assert server.get("/v1/health/ready").status_code == 503
    assert server.get("/v2/health/ready").status_code == 503
    assert server.get(f"/v2/models/{RANK}/ready").status_code == 503
    assert server.get("/health").json()["status"] == "failed"
    # A restart would not bring the other process back.
    assert server.get("/v1/health/live").status_code == 200
    wait_until(lambda: len(asked) >= 5)
    # Told once by the call that failed, and once by who asks again.
    assert caplog.text.count("the engine cannot be reached") <= 2
    unreachable.clear()
    # Without any request: none comes to a server that is not ready.
    wait_until(lambda: server.get("/v1/health/ready").status_code == 200)
    assert server.rank(BODY).status_code == 200
    wait_until(lambda: "the engine is reachable again" in caplog.text)
    assert "Traceback" not in caplog.text
