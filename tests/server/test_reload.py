"""Models are replaced while requests run: no request notices, and a bad model changes nothing."""

import shutil
import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import tritonclient.grpc
import tritonclient.http

Start = Callable[..., Any]

BODY = {"query": {"text": "q"}, "passages": [{"text": "bb"}, {"text": "a"}]}
NAME = "nvidia_llama_nemotron_rerank_1b_v2"
LOAD = f"/v2/repository/models/{NAME}/load"
CONTROL = {"RERANK_MODEL_CONTROL": "true"}


def swap(served: Path, new: Path) -> None:
    """Put `new` where `served` points, at once."""
    link = served.with_name("next")
    link.symlink_to(new)
    link.rename(served)


def ask(server: Any, statuses: list[int], stop: threading.Event) -> None:
    with httpx.Client(base_url=server.url) as client:
        while not stop.is_set():
            statuses.append(client.post("/v1/ranking", json=BODY).status_code)


def wait_for(server: Any, words: str, times: int) -> None:
    end = time.monotonic() + 20
    while server.log.count(words) < times:
        assert time.monotonic() < end, server.log
        time.sleep(0.02)


def test_sighup_replaces_the_model_without_a_gap(start: Start, bare_directory: Path) -> None:
    served = bare_directory.parent / "served"
    served.symlink_to(bare_directory)
    server = start({"NIM_CUSTOM_MODEL": str(served)}).ready()
    statuses: list[int] = []
    stop = threading.Event()
    asking = threading.Thread(target=ask, args=(server, statuses, stop))
    asking.start()
    try:
        for round_ in range(3):
            again = bare_directory.parent / f"again-{round_}"
            shutil.copytree(bare_directory, again)
            swap(served, again)
            answered = len(statuses)
            server.process.send_signal(signal.SIGHUP)
            wait_for(server, "INFO server.service: ready: ", times=round_ + 2)
            while len(statuses) < answered + 5:
                assert asking.is_alive()
    finally:
        stop.set()
        asking.join()
    assert set(statuses) == {200}
    assert server.stop() == 0
    assert "Traceback" not in server.log


def test_a_model_that_cannot_be_served_changes_nothing(start: Start, bare_directory: Path) -> None:
    served = bare_directory.parent / "served"
    served.symlink_to(bare_directory)
    server = start({"NIM_CUSTOM_MODEL": str(served), **CONTROL}).ready()
    before = server.rank(BODY).json()
    broken = bare_directory.parent / "broken"
    shutil.copytree(bare_directory, broken)
    (broken / "model.onnx").write_bytes(b"no graph")
    swap(served, broken)
    refused = server.http.post(LOAD)
    assert refused.status_code == 400
    assert "the model was not replaced" in refused.json()["error"]
    server.process.send_signal(signal.SIGHUP)
    wait_for(server, "reload refused", times=1)
    assert server.rank(BODY).json() == before
    assert server.get("/v1/health/ready").status_code == 200


def test_triton_s_clients_load_a_model(start: Start, rank_artifact: Path) -> None:
    server = start({"NIM_CUSTOM_MODEL": str(rank_artifact), **CONTROL}).ready()
    name = server.get("/v2/models/stats").json()["model_stats"][0]["name"]
    with tritonclient.http.InferenceServerClient(f"127.0.0.1:{server.port}") as client:
        client.load_model(name)
    with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{server.grpc_port}") as client:
        client.load_model(name)
    assert server.log.count("INFO server.service: ready: ") == 3
    configured = server.http.post(LOAD.replace(NAME, name), json={"parameters": {"config": "{}"}})
    assert configured.status_code == 400
    assert server.http.post(LOAD.replace(NAME, "nobody")).status_code == 404


# The mock, whose later copies open, or compute for the first time, when the file is gone.
_SLOW = """
import os, sys, time
import server.service as service
from runtime.engines.mock import MockEngine
from server.cli import main

FILE, WHERE = sys.argv[1], sys.argv[2]
open_model, compute = service._open, MockEngine.run
service._OPENING_PATIENCE_S = float(sys.argv[3])

def wait():
    while os.path.exists(FILE):
        time.sleep(0.02)

def slowly(*given, **named):
    if WHERE == "open":
        wait()
    return open_model(*given, **named)

def run(self, inputs):
    if len(FIRST) < 2 and self not in FIRST:
        FIRST.append(self)
    if WHERE == "compute" and self not in FIRST:
        wait()
    return compute(self, inputs)

FIRST = []  # the engines that the server started with
service._open, MockEngine.run = slowly, run
sys.argv[1:] = []
sys.exit(main())
"""
MOCK = {"ENABLE_MOCK_INFERENCE": "1", **CONTROL}


def test_one_reload_at_a_time_and_none_in_the_way(start: Start, tmp_path: Path) -> None:
    """While a model opens, others are refused, signals are noted, and requests are answered."""
    wait = tmp_path / "wait"
    server = start(MOCK, "-c", _SLOW, str(wait), "open", "60").ready()
    ready = server.log.count("INFO server.service: ready: ")
    wait.touch()
    with ThreadPoolExecutor(9) as pool:
        loads = [pool.submit(httpx.post, server.url + LOAD, timeout=30) for _ in range(9)]
        server.wait_until(lambda: sum(load.done() for load in loads) == 8)
        for load in loads:
            if load.done():
                assert load.result().status_code == 503
                assert load.result().headers["retry-after"]
        for _ in range(3):
            server.process.send_signal(signal.SIGHUP)
            time.sleep(0.05)
        for _ in range(20):
            assert server.rank(BODY).status_code == 200
        wait.unlink()
        assert [load.result().status_code for load in loads].count(200) == 1
    # The load, and both models once or twice: the first signal was taken before the others came.
    server.wait_until(lambda: server.log.count("INFO server.service: ready: ") >= ready + 3)
    assert server.rank(BODY).status_code == 200
    assert server.stop() == 0
    assert "Traceback" not in server.log


def test_a_new_model_that_hangs_is_given_up(start: Start, tmp_path: Path) -> None:
    wait = tmp_path / "wait"
    given = {**MOCK, "RERANK_ENGINE_PATIENCE_S": "1"}
    server = start(given, "-c", _SLOW, str(wait), "compute", "60").ready()
    wait.touch()
    hung = server.http.post(LOAD, timeout=30)
    assert hung.status_code == 400
    assert "an engine call has been running" in hung.json()["error"]
    assert server.get("/v1/health/live").status_code == 200
    assert server.get("/v1/health/ready").status_code == 200
    assert server.rank(BODY).status_code == 200
    wait.unlink()
    assert server.http.post(LOAD, timeout=30).status_code == 200
    assert server.stop() == 0
    assert "Traceback" not in server.log


def test_a_model_that_never_opens_is_given_up(start: Start, tmp_path: Path) -> None:
    wait = tmp_path / "wait"
    server = start(MOCK, "-c", _SLOW, str(wait), "open", "0.5").ready()
    wait.touch()
    late = server.http.post(LOAD, timeout=30)
    assert late.status_code == 400
    assert "did not open" in late.json()["error"]
    wait.unlink()
    assert server.http.post(LOAD, timeout=30).status_code == 200
    assert server.stop() == 0


# The mock, that takes long between tokenising three texts and queueing them.
_LATE = """
import sys, time
from runtime.model import Model
from server.cli import main

learn = Model._learn

def late(self, work, encodings):
    learn(self, work, encodings)
    if work.rows == 3:
        print("HELD", flush=True)
        time.sleep(4)

Model._learn = late
sys.exit(main())
"""


def test_a_model_that_retires_answers_whoever_has_begun(start: Start) -> None:
    server = start(MOCK, "-c", _LATE).ready()
    body = {"query": {"text": "q"}, "passages": [{"text": text} for text in ("a", "bb", "ccc")]}
    with ThreadPoolExecutor(1) as pool:
        held = pool.submit(httpx.post, server.url + "/v1/ranking", json=body, timeout=30)
        wait_for(server, "HELD", times=1)
        server.process.send_signal(signal.SIGHUP)
        assert held.result().status_code == 200
    wait_for(server, "INFO server.service: ready: ", times=4)
    assert server.stop() == 0


def test_counters_never_go_back(start: Start) -> None:
    server = start(MOCK).ready()

    def counted() -> list[float]:
        lines = server.get("/v1/metrics").text.splitlines()
        words = ("nv_inference_count{", "nv_inference_exec_count{", "nv_inference_request_success{")
        return [float(line.split()[-1]) for line in lines if line.startswith(words)]

    found = [counted()]
    for _ in range(3):
        for _ in range(5):
            assert server.rank(BODY).status_code == 200
        found.append(counted())
        assert server.http.post(LOAD, timeout=30).status_code == 200
        found.append(counted())
    end = time.monotonic() + 3  # the models before are closed by then
    while time.monotonic() < end:
        found.append(counted())
        time.sleep(0.1)
    for before, after in pairwise(found):
        assert all(one <= two for one, two in zip(before, after, strict=True)), (before, after)
    told = server.get(f"/v2/models/{NAME}/stats").json()["model_stats"][0]
    assert told["inference_count"] in found[-1]


def test_requests_load_nothing_unless_that_was_asked_for(start: Start) -> None:
    refused = start({"ENABLE_MOCK_INFERENCE": "1"}).ready().http.post(LOAD)
    assert refused.status_code == 400
    assert "RERANK_MODEL_CONTROL" in refused.json()["error"]
