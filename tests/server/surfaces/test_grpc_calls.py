"""gRPC calls through Triton's own client: keys, failing engines, deadlines, the end."""

import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
import pytest

from checks.ports import free_port
from tests.server.conftest import GUARDED, HELD, StartGated
from tests.server.figures import figures
from tests.server.gate import GATED_TOKENS, Gate
from tests.server.in_process import Serve
from tests.server.surfaces.kserve_requests import (
    RANK,
)
from tests.server.surfaces.triton_client import QUERY, InferenceServerException, over_grpc
from tests.waiting import wait_until


@pytest.mark.parametrize(
    ("given", "code"),
    [
        (None, grpc.StatusCode.UNAUTHENTICATED),
        ("Bearer wrong", grpc.StatusCode.UNAUTHENTICATED),
        ("Bearer key-one", grpc.StatusCode.OK),
    ],
)
def test_keys_are_asked_for_over_grpc(
    serve: Serve, given: str | None, code: grpc.StatusCode
) -> None:
    port = free_port()
    serve({**GUARDED, "NIM_TRITON_GRPC_PORT": str(port)})
    headers = {} if given is None else {"authorization": given}
    with over_grpc(port) as one:
        assert one.client.is_server_live()
        assert one.client.is_server_ready()
        if code is grpc.StatusCode.OK:
            assert one.client.get_model_metadata(RANK, headers=headers).name == RANK
        else:
            with pytest.raises(InferenceServerException, match="UNAUTHENTICATED"):
                one.client.get_model_metadata(RANK, headers=headers)


def test_an_engine_that_fails_tells_nothing_over_grpc(serve: Serve, bare_directory: Path) -> None:
    port = free_port()
    serve({"NIM_CUSTOM_MODEL": str(bare_directory), "NIM_TRITON_GRPC_PORT": str(port)})
    with over_grpc(port) as one:
        with pytest.raises(InferenceServerException, match=r"INTERNAL.*log says why"):
            one.rank([QUERY], ["x" * 400])
        assert one.rank([QUERY], ["a"]).as_numpy("logit").shape == (1, 1)


def test_a_deadline_of_the_caller_counts(serve: Serve, gate: Gate) -> None:
    port = free_port()
    server = serve({**HELD, "NIM_TRITON_MAX_BATCH_SIZE": "1", "NIM_TRITON_GRPC_PORT": str(port)})
    with over_grpc(port) as one:
        with pytest.raises(InferenceServerException, match="DEADLINE_EXCEEDED"):
            one.rank([QUERY], ["x" * GATED_TOKENS], client_timeout=0.1)
        gate.open()
        assert one.rank([QUERY], ["a"]).as_numpy("logit").shape == (1, 1)
    wait_until(lambda: figures(server)['rerank_requests_in_flight{kind="rank"}'] == 0)


def test_calls_that_run_are_answered_before_the_end(start_gated: StartGated) -> None:
    batches = {"NIM_TRITON_MAX_BATCH_SIZE": "1", "RERANK_MAX_PASSAGES": "64"}
    server = start_gated({**batches, "RERANK_DRAIN_TIMEOUT_S": "3600"}).ready()
    with ThreadPoolExecutor(1) as pool, over_grpc(server.grpc_port) as one:
        passages = [f"{number:02}".ljust(GATED_TOKENS) for number in range(12)]
        answer = pool.submit(one.rank, [QUERY], passages)
        server.gate.wait_for_call()
        server.signal(signal.SIGTERM)
        server.wait_until_deaf()
        assert not answer.done()
        server.gate.open()
        assert answer.result().as_numpy("logit").shape == (12, 1)
        assert server.ends() == 0
