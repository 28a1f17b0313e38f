"""An engine that fails, hangs or is late: every request is answered, nothing inside is shown."""

import json
import logging
import signal
import socket
from pathlib import Path
from typing import Any

import pytest

from checks.faults.models import FAIL_TOKENS, NAN_TOKENS
from runtime.text import PairEncoder
from tests.server.conftest import Start, StartGated
from tests.server.figures import figures, outcomes, pending, refusals, total
from tests.server.gate import GATED_TOKENS, Gate
from tests.server.in_process import Serve
from tests.waiting import wait_until

MOCK = {"ENABLE_MOCK_INFERENCE": "1"}
PROMPT = len("question:q \n \n passage:")


def body(*lengths: int) -> dict[str, Any]:
    """A request whose pairs have these numbers of tokens and are all different."""
    passages = [f"{i:02}".ljust(n - PROMPT, "x") for i, n in enumerate(lengths)]
    return {"query": {"text": "q"}, "passages": [{"text": passage} for passage in passages]}


@pytest.mark.parametrize(
    ("tokens", "error", "other"),
    [
        (NAN_TOKENS, "NonFiniteScore", "EngineError"),
        (FAIL_TOKENS + 1, "EngineError", "NonFiniteScore"),
    ],
)
def test_what_goes_wrong_inside_stays_inside(
    serve: Serve,
    bare_directory: Path,
    caplog: pytest.LogCaptureFixture,
    tokens: int,
    error: str,
    other: str,
) -> None:
    caplog.set_level(logging.INFO)
    server = serve({"NIM_CUSTOM_MODEL": str(bare_directory)})
    failed = server.rank(body(tokens))
    assert failed.status_code == 500
    found = failed.json()
    assert found["type"] == "invalid_request_error"
    assert found["message"] == "the server failed to answer; its log says why"
    assert server.rank(body(50, 60)).status_code == 200
    assert error in caplog.text
    assert other not in caplog.text
    assert "Traceback" not in caplog.text
    counted = figures(server)
    assert counted['rerank_server_faults_total{protocol="http"}'] == 1
    assert total(counted, "nv_inference_request_failure") == 1
    backend = [v for s, v in counted.items() if "request_failure" in s and '"BACKEND"' in s]
    assert backend == [1]


def test_a_deadline_passes_and_nothing_is_left_waiting(serve: Serve, gate: Gate) -> None:
    server = serve(
        {
            **MOCK,
            "NIM_TRITON_MAX_BATCH_SIZE": "1",
            "RERANK_MAX_PASSAGES": "64",
            "NIM_REQUEST_TIMEOUT_S": "1",
        }
    )
    late = server.rank(body(*[GATED_TOKENS] * 64))
    assert late.status_code == 504
    assert late.json()["type"] == "invalid_request_error"
    assert int(late.headers["retry-after"]) >= 1
    assert pending(server) == 0
    assert refusals(server) == {"expired": 1}
    assert outcomes(figures(server))["failed"] == 1
    gate.open()
    # A stall of the machine may take the second that a request has.
    wait_until(lambda: server.rank(body(50)).status_code == 200)


def test_rows_of_a_client_that_hangs_up_are_dropped(start_gated: StartGated) -> None:
    server = start_gated({"NIM_TRITON_MAX_BATCH_SIZE": "1", "RERANK_MAX_PASSAGES": "64"}).ready()
    sent = json.dumps(body(*[GATED_TOKENS] * 64)).encode()
    with socket.create_connection(("127.0.0.1", server.port)) as raw:
        head = f"POST /v1/ranking HTTP/1.1\r\nHost: a\r\nContent-Length: {len(sent)}\r\n\r\n"
        raw.sendall(head.encode() + sent)
        server.gate.wait_for_call()
        assert pending(server) == 1
    server.wait_until(lambda: pending(server) == 0)
    server.wait_until(lambda: "POST /v1/ranking 499" in server.log)


class PanicException(BaseException):
    """What Rust's panics are in Python."""


def test_a_tokenizer_that_panics_fails_one_request(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    encode = PairEncoder.encode_pairs

    def panic(self: PairEncoder, pairs: list[tuple[str, str]], *rest: Any, **more: Any) -> Any:
        if "panic" in pairs[0][1]:
            raise PanicException("index out of bounds")
        return encode(self, pairs, *rest, **more)

    monkeypatch.setattr(PairEncoder, "encode_pairs", panic)
    server = serve(MOCK)
    for _ in range(10):
        failed = server.rank({**body(50), "passages": [{"text": "do panic"}]})
        assert failed.status_code == 500
        assert failed.json()["message"] == "the server failed to answer; its log says why"
    assert server.rank(body(50)).status_code == 200
    assert "PanicException in the tokenizer" in caplog.text


def test_a_crash_in_native_code_says_where(start: Start) -> None:
    server = start(MOCK).ready()
    server.signal(signal.SIGSEGV)
    assert server.ends() == -signal.SIGSEGV
    assert "Fatal Python error: Segmentation fault" in server.log
