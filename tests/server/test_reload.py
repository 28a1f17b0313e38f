"""Models are replaced while requests run: no request notices, and a bad model changes nothing."""

import os
import shutil
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import pytest
import tritonclient.grpc
import tritonclient.http

from runtime.model import Model
from server import loading, reloading
from tests.server.conftest import Server, Start
from tests.server.figures import figures
from tests.server.in_process import Serve
from tests.server.surfaces.kserve_requests import RANK
from tests.waiting import PATIENCE_S, retiring, wait_until

BODY = {"query": {"text": "q"}, "passages": [{"text": "bb"}, {"text": "a"}]}
LOAD = f"/v2/repository/models/{RANK}/load"
CONTROL = {"RERANK_MODEL_CONTROL": "true"}
MOCK = {"ENABLE_MOCK_INFERENCE": "1", **CONTROL}


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """In this process, models that were replaced are closed as soon as they are idle."""
    monkeypatch.setattr(reloading, "_RETIRE_DELAY_S", 0.0)


def swap(served: Path, new: Path) -> None:
    """Put `new` where `served` points, at once."""
    link = served.with_name("next")
    link.symlink_to(new)
    link.rename(served)


def ask(server: Server, statuses: list[int], stop: threading.Event) -> None:
    with httpx.Client(base_url=server.url, timeout=PATIENCE_S) as client:
        while not stop.is_set():
            statuses.append(client.post("/v1/ranking", json=BODY).status_code)


def wait_for_models(server: Server, count: int) -> None:
    server.wait_until(lambda: server.log.count("INFO server.loading: ready: ") == count)


def wait_for_answers(statuses: list[int], count: int) -> None:
    wait_until(lambda: len(statuses) >= count)


def test_a_model_that_cannot_be_served_changes_nothing(serve: Serve, bare_directory: Path) -> None:
    served = bare_directory.parent / "served"
    served.symlink_to(bare_directory)
    server = serve({"NIM_CUSTOM_MODEL": str(served), **CONTROL})
    before = server.rank(BODY).json()
    broken = bare_directory.parent / "broken"
    shutil.copytree(bare_directory, broken)
    (broken / "model.onnx").write_bytes(b"no graph")
    swap(served, broken)
    refused = server.http.post(LOAD)
    assert refused.status_code == 400
    assert "the model was not replaced" in refused.json()["error"]
    assert server.rank(BODY).json() == before
    assert server.get("/v1/health/ready").status_code == 200


def test_a_file_that_never_ends_is_refused_and_holds_no_process(
    start: Start, bare_directory: Path
) -> None:
    served = bare_directory.parent / "served"
    served.symlink_to(bare_directory)
    server = start({"NIM_CUSTOM_MODEL": str(served)}).ready()
    for name in ("model.onnx", "tokenizer/tokenizer.json", "manifest.json"):
        strange = shutil.copytree(bare_directory, bare_directory.with_name(name.replace("/", "-")))
        (strange / name).unlink(missing_ok=True)
        os.mkfifo(strange / name)
        swap(served, strange)
        server.signal(signal.SIGHUP)
        server.wait_until(lambda message=f"{name}: it is a FIFO": message in server.log)
    assert server.rank(BODY).status_code == 200
    assert server.stop() == 0
    assert "Traceback" not in server.log


def test_triton_s_clients_load_a_model(mock_server: Server) -> None:
    done = 'rerank_reloads_total{kind="rank",result="done"}'
    before = figures(mock_server)[done]
    with tritonclient.http.InferenceServerClient(f"127.0.0.1:{mock_server.port}") as client:
        client.load_model(RANK)
    with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{mock_server.grpc_port}") as client:
        client.load_model(RANK)
    assert figures(mock_server)[done] == before + 2
    assert mock_server.http.post(LOAD.replace(RANK, "nobody")).status_code == 404


class Opening:
    """Opening models, which waits while `shut`; `waiting` says so."""

    def __init__(self) -> None:
        self.waiting, self._open = threading.Event(), threading.Event()
        self._open.set()

    def shut(self) -> None:
        self._open.clear()

    def open(self) -> None:
        self._open.set()

    def wait(self) -> None:
        if not self._open.is_set():
            self.waiting.set()
            assert self._open.wait(PATIENCE_S)


@pytest.fixture
def opening(monkeypatch: pytest.MonkeyPatch) -> Opening:
    opening, open_model = Opening(), loading.open_served

    def open_later(*given: Any, **named: Any) -> Model:
        opening.wait()
        return open_model(*given, **named)

    monkeypatch.setattr(loading, "open_served", open_later)
    return opening


def test_one_reload_at_a_time_and_none_in_the_way(serve: Serve, opening: Opening) -> None:
    """While a model opens, others are refused, and requests are answered."""
    server = serve(MOCK)
    opening.shut()
    with ThreadPoolExecutor(1) as pool:
        load = pool.submit(server.http.post, LOAD)
        assert opening.waiting.wait(PATIENCE_S)
        for _ in range(8):
            refused = server.http.post(LOAD)
            assert refused.status_code == 503
            assert refused.headers["retry-after"]
            assert server.rank(BODY).status_code == 200
        assert not load.done()
        opening.open()
        assert load.result().status_code == 200
    assert server.rank(BODY).status_code == 200


def test_a_model_that_never_opens_is_given_up(
    serve: Serve, opening: Opening, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(MOCK)
    opening.shut()
    with monkeypatch.context() as patch:
        patch.setattr(reloading, "_OPEN_TIMEOUT_S", 0.1)
        late = server.http.post(LOAD)
    assert late.status_code == 400
    assert "did not open" in late.json()["error"]
    opening.open()
    assert server.http.post(LOAD).status_code == 200


def test_counters_never_go_back(serve: Serve) -> None:
    server = serve(MOCK)

    def counted() -> list[float]:
        words = ("nv_inference_count{", "nv_inference_exec_count{", "nv_inference_request_success{")
        return [value for sample, value in figures(server).items() if sample.startswith(words)]

    found = [counted()]
    for _ in range(3):
        for _ in range(5):
            assert server.rank(BODY).status_code == 200
        found.append(counted())
        assert server.http.post(LOAD).status_code == 200
        while retiring():
            found.append(counted())
        found.append(counted())
    for before, after in pairwise(found):
        assert all(one <= two for one, two in zip(before, after, strict=True)), (before, after)
    statistics = server.get(f"/v2/models/{RANK}/stats").json()["model_stats"][0]
    assert statistics["inference_count"] in found[-1]


def test_requests_load_nothing_unless_that_was_asked_for(serve: Serve) -> None:
    refused = serve({"ENABLE_MOCK_INFERENCE": "1"}).http.post(LOAD)
    assert refused.status_code == 400
    assert "RERANK_MODEL_CONTROL" in refused.json()["error"]
