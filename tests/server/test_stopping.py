"""The end of a server under load: what runs is answered, by the deadline with 503."""

import json
import signal
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

Start = Callable[..., Any]

PASSAGES = [{"text": f"{i:02}".ljust(50, "x")} for i in range(64)]
BODY = {"query": {"text": "q"}, "passages": PASSAGES}
ONE_ROW_A_CALL = {"NIM_TRITON_MAX_BATCH_SIZE": "1", "RERANK_MAX_PASSAGES": "64"}


def pending(server: Any) -> float:
    text = server.get("/v1/metrics").text
    (line,) = [x for x in text.splitlines() if x.startswith("nv_inference_pending_request_count")]
    return float(line.split()[-1])


def head(length: int) -> bytes:
    return f"POST /v1/ranking HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n".encode()


def test_at_the_deadline_the_rest_is_answered_with_503(start: Start, slow_directory: Path) -> None:
    given = {"NIM_CUSTOM_MODEL": str(slow_directory), "RERANK_DRAIN_TIMEOUT_S": "1"}
    server = start({**given, **ONE_ROW_A_CALL}).ready()
    answers: list[httpx.Response] = []
    asking = threading.Thread(
        target=lambda: answers.append(httpx.post(server.url + "/v1/ranking", json=BODY, timeout=20))
    )
    asking.start()
    while not pending(server):
        assert asking.is_alive()
    # A second request is still being sent when the time is up.
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(head(100) + b"{")
        server.get("/v1/health/live")
        server.process.send_signal(signal.SIGTERM)
        assert connection.recv(100).startswith(b"HTTP/1.1 503")
    asking.join()
    assert answers[0].status_code == 503
    assert int(answers[0].headers["retry-after"]) >= 1
    assert server.exit_code() == 0
    assert "Traceback" not in server.log


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_second_signal_ends_at_once(start: Start, number: int) -> None:
    server = start({"ENABLE_MOCK_INFERENCE": "1"}).ready()
    body = json.dumps(BODY).encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=20) as connection:
        connection.sendall(head(len(body)) + body[:10])
        server.get("/v1/health/live")
        server.process.send_signal(number)
        time.sleep(1)
        assert server.process.poll() is None
        server.process.send_signal(number)
        assert server.exit_code() == 128 + number
