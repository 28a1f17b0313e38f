"""Models are replaced while requests run: no request notices, and a bad model changes nothing."""

import shutil
import signal
import threading
import time
from collections.abc import Callable
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


def test_requests_load_nothing_unless_that_was_asked_for(start: Start) -> None:
    refused = start({"ENABLE_MOCK_INFERENCE": "1"}).ready().http.post(LOAD)
    assert refused.status_code == 400
    assert "RERANK_MODEL_CONTROL" in refused.json()["error"]
