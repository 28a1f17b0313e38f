"""An engine that fails or is slow: every request is answered, and nothing inside is shown."""

import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.conftest import write_bare_directory

Start = Callable[..., Any]

PROMPT = len("question:q \n \n passage:")
NAN_TOKENS = 150  # of the model of conftest
FAIL_TOKENS = 200


def body(*lengths: int) -> dict[str, Any]:
    """A request whose pairs have these numbers of tokens and are all different."""
    passages = [f"{i:02}".ljust(n - PROMPT, "x") for i, n in enumerate(lengths)]
    return {"query": {"text": "q"}, "passages": [{"text": passage} for passage in passages]}


def pending(server: Any) -> float:
    text = server.get("/v1/metrics").text
    (line,) = [x for x in text.splitlines() if x.startswith("nv_inference_pending_request_count")]
    return float(line.split()[-1])


@pytest.mark.parametrize("tokens", [NAN_TOKENS, FAIL_TOKENS + 1])
def test_what_goes_wrong_inside_stays_inside(
    start: Start, bare_directory: Path, tokens: int
) -> None:
    server = start({"NIM_CUSTOM_MODEL": str(bare_directory)}).ready()
    url = server.url + "/v1/ranking"
    failed = httpx.post(url, json=body(tokens))
    assert failed.status_code == 500
    found = failed.json()
    assert found["type"] == "invalid_request_error"
    assert found["message"] == "the server failed to answer; its log says why"
    assert httpx.post(url, json=body(50, 60)).status_code == 200
    assert server.stop() == 0
    assert "Traceback" not in server.log
    assert ("NonFiniteScore" in server.log) == (tokens == NAN_TOKENS)
    assert ("EngineError" in server.log) == (tokens != NAN_TOKENS)


@pytest.fixture
def slow_server(start: Start, slow_directory: Path) -> Any:
    """One row a call, a short queue, one second for a request."""
    return start(
        {
            "NIM_CUSTOM_MODEL": str(slow_directory),
            "NIM_TRITON_MAX_BATCH_SIZE": "1",
            "RERANK_MAX_PASSAGES": "64",
            "NIM_MAX_QUEUE_SIZE": "40",
            "NIM_REQUEST_TIMEOUT_S": "1",
            "RERANK_OVERLOAD_STATUS": "429",
        }
    ).ready()


def test_a_deadline_passes_and_nothing_is_left_waiting(slow_server: Any) -> None:
    late = slow_server.rank(body(*[50] * 64), timeout=10)
    assert late.status_code == 504
    assert late.json()["type"] == "invalid_request_error"
    assert int(late.headers["retry-after"]) >= 1
    assert pending(slow_server) == 0


def test_a_full_queue_refuses_at_once(slow_server: Any) -> None:
    url = slow_server.url + "/v1/ranking"
    first = threading.Thread(target=httpx.post, args=(url,), kwargs={"json": body(*[50] * 64)})
    first.start()
    while pending(slow_server) == 0:
        assert first.is_alive()
    refused = slow_server.rank(body(*[50] * 64))
    assert first.is_alive()  # nobody waited for it
    assert refused.status_code == 429
    assert int(refused.headers["retry-after"]) >= 1
    first.join()


def test_rows_of_a_client_that_hangs_up_are_dropped(slow_server: Any) -> None:
    with pytest.raises(httpx.ReadTimeout):
        slow_server.rank(body(*[50] * 64), timeout=0.3)
    end = time.monotonic() + 0.6
    while pending(slow_server) > 0:
        assert time.monotonic() < end
        time.sleep(0.02)
    assert "POST /v1/ranking 499" in slow_server.log


# The mock, whose tokenizer panics at texts with that word: such errors are no Exception.
_PANIC = """
import sys
from runtime.text import PairEncoder
from server.cli import main

class PanicException(BaseException):
    pass

encode = PairEncoder.encode_checked

def panic(self, query, passages, *rest):
    if "panic" in passages[0]:
        raise PanicException("index out of bounds")
    return encode(self, query, passages, *rest)

PairEncoder.encode_checked = panic
sys.exit(main())
"""


def test_a_tokenizer_that_panics_fails_one_request(start: Start) -> None:
    server = start({"ENABLE_MOCK_INFERENCE": "1"}, "-c", _PANIC).ready()
    for _ in range(10):
        failed = server.rank({**body(50), "passages": [{"text": "do panic"}]})
        assert failed.status_code == 500
        assert failed.json()["message"] == "the server failed to answer; its log says why"
    assert server.rank(body(50)).status_code == 200
    assert "PanicException in the tokenizer" in server.log
    assert server.stop() == 0


def test_a_crash_in_native_code_says_where(start: Start) -> None:
    server = start({"ENABLE_MOCK_INFERENCE": "1"}).ready()
    server.process.send_signal(signal.SIGSEGV)
    assert server.exit_code() == -signal.SIGSEGV
    assert "Fatal Python error: Segmentation fault" in server.log


def test_an_engine_that_hangs_is_noticed(start: Start, tmp_path: Path) -> None:
    directory = write_bare_directory(tmp_path / "bare", work=7000)
    given = {"RERANK_ENGINE_PATIENCE_S": "1", "NIM_REQUEST_TIMEOUT_S": "2"}
    # The first inference, before ready, hangs already.
    server = start({"NIM_CUSTOM_MODEL": str(directory), **given})
    server.wait_for("/v1/health/live", 200)
    server.wait_for("/v1/health/live", 503)
    assert server.get("/v2/health/live").status_code == 503
    assert server.get("/health").json()["status"] == "failed"
    assert server.log.count("an engine call has been running for") == 1
