"""Large bodies are decoded one in each turn of the event loop, whatever they came with."""

import asyncio
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import Any

import grpc
import pytest

from checks.ports import free_port
from server import exchange, json_items, time_slices
from server.connection import BodyBudget
from server.kserve import rest
from server.kserve.grpc_requests import Requests
from server.kserve.messages import Messages
from tests.server.in_process import InProcess, in_process
from tests.server.surfaces.kserve_requests import RANK, binary, elements, send
from tests.waiting import PATIENCE_S

MOCK = {"ENABLE_MOCK_INFERENCE": "1"}
PREFIX = "/inference.GRPCInferenceService/"
WIDE = "😀" + "word " * 20_000


@pytest.fixture(scope="module")
def port() -> int:
    return free_port()


@pytest.fixture(scope="module")
def server(port: int) -> Iterator[InProcess]:
    with in_process({**MOCK, "NIM_TRITON_GRPC_PORT": str(port)}) as found:
        yield found


def reranked(server: InProcess, text: str) -> None:
    body = {"query": "q", "documents": ["a", text], "truncate": "END"}
    assert server.http.post("/rerank", json=body).status_code in (200, 422)


def inferred(server: InProcess, text: str) -> None:
    head, raw = binary(elements(b"a", text.encode()))
    assert send(server.http, head, raw, str(len(head))).status_code in (200, 400)


def called(port: int, text: str, *, raw: bool) -> None:
    request = Messages()["ModelInferRequest"](model_name=RANK)
    for name, rows in (("query", [b"q"]), ("passage", [b"a", text.encode()])):
        tensor = request.inputs.add(name=name, datatype="BYTES", shape=[len(rows)])
        if raw:
            request.raw_input_contents.append(elements(*rows))
        else:
            tensor.contents.bytes_contents.extend(rows)
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        infer = channel.unary_unary(PREFIX + "ModelInfer")
        asked = infer.future(request.SerializeToString(), timeout=PATIENCE_S)
        assert asked.code() in (grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT)


def test_large_bodies_are_decoded_one_in_a_time_slice(
    server: InProcess, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of different requests and protocols, and the two decoders of /rerank; between any two
    others have the iterations that an ordinary request takes."""
    monkeypatch.setattr(time_slices, "SLICE_BYTES", 1)
    each = 5
    together = asyncio.Barrier(3 * each)
    steps: list[int] = []
    iterations, over = 0, False

    def tick() -> None:
        nonlocal iterations
        iterations += 1
        if not over:
            asyncio.get_running_loop().call_soon(tick)

    def watched(step: Callable[..., Any]) -> Callable[..., Any]:
        def taken(*given: Any) -> Any:
            if not steps:
                tick()
            steps.append(iterations)
            return step(*given)

        return taken

    def at_once(measure: Callable[..., Any]) -> Callable[..., Any]:
        async def measured(*given: Any) -> Any:
            await together.wait()
            return await measure(*given)

        return measured

    monkeypatch.setattr(exchange, "decoded_bytes", at_once(exchange.decoded_bytes))
    monkeypatch.setattr(Requests, "decoded_bytes", at_once(Requests.decoded_bytes))
    monkeypatch.setattr(json_items, "decode", watched(json_items.decode))
    monkeypatch.setattr(Requests, "parse", watched(Requests.parse))
    monkeypatch.setattr(rest, "texts_of_raw", watched(rest.texts_of_raw))
    with ThreadPoolExecutor(3 * each) as pool:
        asked = [pool.submit(reranked, server, "text") for _ in range(each)]
        asked += [pool.submit(inferred, server, "text") for _ in range(each)]
        asked += [pool.submit(called, port, "text", raw=False) for _ in range(each)]
        for one in asked:
            one.result()
    over = True
    assert len(steps) == (1 + 2 + 1) * each
    assert all(later - before >= time_slices._BETWEEN for before, later in pairwise(steps))


@pytest.mark.parametrize("form", ["json", "raw", "contents", "raw contents"])
def test_wide_texts_count_with_their_width(
    server: InProcess, port: int, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """Before they are decoded; other texts do not count wider."""
    held: list[int] = []
    reserve = BodyBudget.reserve
    monkeypatch.setattr(
        BodyBudget,
        "reserve",
        lambda self, count, size: held.append(count) or reserve(self, count, size),
    )
    asks: dict[str, Callable[[str], None]] = {
        "json": lambda text: reranked(server, text),
        "raw": lambda text: inferred(server, text),
        "contents": lambda text: called(port, text, raw=False),
        "raw contents": lambda text: called(port, text, raw=True),
    }
    asks[form](WIDE)
    size = len(json.dumps(WIDE, ensure_ascii=False))
    assert 4 * len(WIDE) <= sum(held) < 4.5 * size
    held.clear()
    asks[form](WIDE[1:])
    assert sum(held) < 2.5 * size
