"""POST /tokenize is metered as every other work."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from runtime import model as model_module
from tests.server.figures import figures, outcomes, refusals
from tests.server.in_process import Serve
from tests.waiting import PATIENCE_S, wait_until

MOCK = {"ENABLE_MOCK_INFERENCE": "1"}


class Held:
    """Holds the listing of tokens until it is let go; remembers who lists, and how many at once."""

    def __init__(self) -> None:
        self.free = threading.Event()
        self.threads: set[str] = set()
        self.now = self.most = self.texts = 0
        self._list = model_module.tokens_of

    def __call__(self, tokenizer: Any, texts: Any, *given: Any, **more: Any) -> Iterator[Any]:
        self.threads.add(threading.current_thread().name)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            for tokens in self._list(tokenizer, texts, *given, **more):
                self.texts += 1
                assert self.free.wait(PATIENCE_S)
                yield tokens
        finally:
            self.now -= 1


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Iterator[Held]:
    holding = Held()
    monkeypatch.setattr(model_module, "tokens_of", holding)
    yield holding
    holding.free.set()


def test_one_request_at_a_time_in_a_thread_of_the_model(serve: Serve, held: Held) -> None:
    server = serve(MOCK)
    with ThreadPoolExecutor(6) as pool:
        body = {"inputs": ["a", "b"]}
        asked = [pool.submit(server.http.post, "/tokenize", json=body) for _ in range(6)]
        wait_until(lambda: held.now == 1)
        # Whoever wants a score has threads of their own.
        ranking = {"query": {"text": "q"}, "passages": [{"text": "p"}]}
        assert server.rank(ranking).status_code == 200
        held.free.set()
        assert {one.result().status_code for one in asked} == {200}
    assert held.most == 1
    assert all(name.startswith("tokenizer-listing") for name in held.threads)
    assert outcomes(figures(server))["answered"] == 1  # it asks no engine


def test_the_queue_s_room_bounds_what_waits(serve: Serve, held: Held) -> None:
    server = serve({**MOCK, "NIM_MAX_QUEUE_SIZE": "40"})
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(server.http.post, "/tokenize", json={"inputs": ["a"] * 30})
        wait_until(lambda: held.now == 1)
        refused = server.http.post("/tokenize", json={"inputs": ["a"] * 30})
        assert refused.status_code == 429
        assert refused.json()["error_type"] == "Overloaded"
        assert int(refused.headers["retry-after"]) >= 1
        held.free.set()
        assert first.result().status_code == 200
    assert refusals(server) == {"full": 1}
    assert server.http.post("/tokenize", json={"inputs": ["a"] * 30}).status_code == 200


def test_the_queue_s_tokens_bound_it_too(serve: Serve, held: Held) -> None:
    server = serve({**MOCK, "RERANK_MAX_QUEUE_TOKENS": "1000"})
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(server.http.post, "/tokenize", json={"inputs": ["a" * 5000]})
        wait_until(lambda: held.now == 1)
        assert server.http.post("/tokenize", json={"inputs": ["a" * 5000]}).status_code == 429
        held.free.set()
        assert len(first.result().json()[0]) == 5000


def test_the_deadline_ends_it(serve: Serve, held: Held) -> None:
    """The answer comes then, the one behind it is never begun, and the one begun ends soon."""
    server = serve({**MOCK, "NIM_REQUEST_TIMEOUT_S": "1"})
    with ThreadPoolExecutor(2) as pool:
        body = {"inputs": ["a"] * 9}
        asked = [pool.submit(server.http.post, "/tokenize", json=body) for _ in range(2)]
        assert {one.result().status_code for one in asked} == {503}
    held.free.set()
    wait_until(lambda: not held.now)
    assert held.texts <= 1
    assert refusals(server) == {"expired": 2}


@pytest.mark.parametrize("text", ["é" * (1 << 19) + "a", "a" * ((1 << 20) + 1)])
def test_bytes_of_text_are_bounded(serve: Serve, held: Held, text: str) -> None:
    answer = serve(MOCK).http.post("/tokenize", json={"inputs": text})
    assert answer.status_code == 422
    assert "1048577 bytes" in answer.json()["error"]
    assert not held.threads


def test_tokens_are_bounded(serve: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_module, "_MOST_LISTED_TOKENS", 100)
    server = serve(MOCK)
    found = server.http.post("/tokenize", json={"inputs": ["a" * 60, "b" * 40]})
    assert [len(tokens) for tokens in found.json()] == [60, 40]
    answer = server.http.post("/tokenize", json={"inputs": ["a" * 60, "b" * 41]})
    assert answer.status_code == 422
    assert "101 exceeds maximum allowed token size 100" in answer.json()["error"]
