"""Who is whose caller, and that one request of a caller is one, whatever it splits into."""

import hashlib
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc

from checks.ports import free_port
from runtime.scheduling.scheduler import Scheduler
from server.caller import grpc_caller, http_caller
from tests.server.conftest import HELD
from tests.server.figures import figures, outcomes, pending, refusals, sums
from tests.server.gate import GATED_TOKENS, Gate
from tests.server.in_process import InProcess, Serve
from tests.server.surfaces.kserve_requests import INFER
from tests.waiting import wait_until

MANY = 256
LIMITS = {
    "NIM_MAX_QUEUE_SIZE": "100",
    "RERANK_MAX_PASSAGES": str(MANY),
    "NIM_TRITON_MAX_BATCH_SIZE": "8",
}
KEY = b"a-secret-key"


@pytest.mark.parametrize(
    ("authorization", "peer", "wanted"),
    [
        ([], "ipv4:10.0.0.1:5000", "10.0.0.1"),
        ([], "ipv6:%5B2001:db8::1%5D:5000", "2001:db8::1"),
        ([], "ipv6:[::1]:5000", "::1"),
        ([], "unix:/run/socket", ""),
        ([b"Basic dTpw"], "ipv4:10.0.0.1:5000", "10.0.0.1"),
        ([b"Bearer "], "ipv4:10.0.0.1:5000", "10.0.0.1"),
        ([b"Bearer a", b"Bearer b"], "ipv4:10.0.0.1:5000", "10.0.0.1"),
    ],
)
def test_a_caller_without_a_bearer_is_its_address(
    authorization: list[bytes], peer: str, wanted: str
) -> None:
    assert grpc_caller(authorization, peer) == wanted
    client = (wanted, 5000) if wanted else None
    assert http_caller(authorization, client) == wanted


def test_a_bearer_is_a_caller_wherever_it_calls_from() -> None:
    first = http_caller([b"Bearer " + KEY], ("10.0.0.1", 5000))
    assert first == http_caller([b"bearer  " + KEY], ("10.0.0.2", 5000))
    assert first == grpc_caller([b"Bearer " + KEY], "ipv4:10.0.0.3:5000")
    assert first != http_caller([b"Bearer another"], ("10.0.0.1", 5000))
    assert first == hashlib.blake2b(KEY, digest_size=16).hexdigest()  # nothing of it in clear


class Admitted:
    """The callers that schedulers were told of, and the rows that came with each."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.found: list[tuple[int, str]] = []
        admit = Scheduler.admit

        def noting(
            scheduler: Scheduler,
            rows: int,
            tokens: int,
            deadline: float | None,
            caller: str = "",
            **options: Any,
        ) -> Any:
            self.found.append((rows, caller))
            return admit(scheduler, rows, tokens, deadline, caller, **options)

        monkeypatch.setattr(Scheduler, "admit", noting)

    def take(self) -> list[tuple[int, str]]:
        found, self.found = self.found, []
        return found


def pairs(length: int = 1) -> dict[str, Any]:
    """A body of /score: pairs of as many different queries."""
    queries = [f"{number:03}".ljust(length, "q") for number in range(MANY)]
    return {"text_1": queries, "text_2": [f"passage {number}" for number in range(MANY)]}


def tensors(length: int = 1) -> dict[str, Any]:
    """The same for KServe."""
    given = pairs(length)
    named = {"query": given["text_1"], "passage": given["text_2"]}
    return {
        "inputs": [
            {"name": name, "shape": [MANY, 1], "datatype": "BYTES", "data": texts}
            for name, texts in named.items()
        ]
    }


def infer_over_grpc(port: int) -> int:
    """The rows that came back of a request of pairs."""
    found = []
    for tensor in tensors()["inputs"]:
        given = tritonclient.grpc.InferInput(tensor["name"], [MANY, 1], "BYTES")
        texts = np.array([[text.encode()] for text in tensor["data"]], object)
        found.append(given.set_data_from_numpy(texts))
    with tritonclient.grpc.InferenceServerClient(f"127.0.0.1:{port}") as client:
        headers = {"authorization": f"Bearer {KEY.decode()}"}
        answer = client.infer("llama_3_2_nv_rerankqa_1b_v2", found, headers=headers)
    return len(answer.as_numpy("logit"))


def test_pairs_of_many_queries_are_one_request(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More than the queue holds, which an idle server takes all the same."""
    port = free_port()
    server = serve({"ENABLE_MOCK_INFERENCE": "1", "NIM_TRITON_GRPC_PORT": str(port), **LIMITS})
    admitted = Admitted(monkeypatch)
    headers = {"authorization": f"Bearer {KEY.decode()}"}
    scored = server.http.post("/score", json=pairs(), headers=headers)
    assert scored.status_code == 200, scored.text
    (one,) = admitted.take()
    inferred = server.http.post(INFER, json=tensors(), headers=headers)
    assert inferred.status_code == 200, inferred.text
    assert admitted.take() == [one]
    assert infer_over_grpc(port) == MANY
    assert admitted.take() == [one]
    assert one == (MANY, http_caller([b"Bearer " + KEY], None))
    found = figures(server)
    assert outcomes(found) == {"answered": 3, "failed": 0, "cancelled": 0, "refused": 0}
    assert found['rerank_stage_seconds_count{kind="rank",stage="queue"}'] == 3
    assert found['rerank_texts_total{kind="rank"}'] == 3 * MANY


def test_pairs_score_as_each_alone(mock_in_process: InProcess) -> None:
    given = {"text_1": ["how", "why", "how"], "text_2": ["so", "because", "thus"]}
    answer = mock_in_process.http.post("/score", json=given).json()
    for number in range(3):
        alone = {"text_1": given["text_1"][number], "text_2": given["text_2"][number]}
        (found,) = mock_in_process.http.post("/score", json=alone).json()["data"]
        assert found["score"] == answer["data"][number]["score"]


def test_pairs_of_many_queries_are_refused_whole(serve: Serve, gate: Gate) -> None:
    server = serve({**HELD, **LIMITS})
    with ThreadPoolExecutor(2) as pool:
        running = pool.submit(server.http.post, "/score", json={"text_1": "q" * 200, "text_2": "p"})
        gate.wait_for_call()
        waiting = pool.submit(server.http.post, "/score", json={"text_1": "w" * 200, "text_2": "p"})
        wait_until(lambda: pending(server) == 1)
        assert server.http.post("/score", json=pairs(GATED_TOKENS)).status_code == 503
        assert server.http.post(INFER, json=tensors(GATED_TOKENS)).status_code == 503
        gate.open()
        assert running.result().status_code == waiting.result().status_code == 200
    assert refusals(server) == {"full": 2}
    found = figures(server)
    # None of their rows was computed.
    assert found['rerank_texts_total{kind="rank"}'] == 2
    assert outcomes(found) == {"answered": 2, "failed": 0, "cancelled": 0, "refused": 2}
    assert sums(found) == (4, 4)


def test_every_surface_says_who_calls(
    mock_in_process: InProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    admitted = Admitted(monkeypatch)
    for path, body in (
        ("/v1/ranking", {"query": {"text": "q"}, "passages": [{"text": "p"}]}),
        ("/rerank", {"query": "q", "texts": ["p"]}),
        ("/v1/rerank", {"query": "q", "documents": ["p"]}),
        ("/v2/rerank", {"query": "q", "documents": ["p"]}),
        ("/score", {"text_1": "q", "text_2": "p"}),
        ("/v1/embeddings", {"input": "p", "input_type": "query"}),
        ("/embed", {"inputs": "p", "prompt_name": "query"}),
        ("/tokenize", {"inputs": "p"}),
    ):
        for key, wanted in (({}, "127.0.0.1"), ({"authorization": "Bearer a"}, "")):
            answer = mock_in_process.http.post(path, json=body, headers=key)
            assert answer.status_code == 200, path
            ((_, caller),) = admitted.take()
            assert caller == (wanted or http_caller([b"Bearer a"], None)), path
