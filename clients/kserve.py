"""The kserve SDK: health and inferences of both models, by its REST and its gRPC client."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import numpy as np
from kserve import (
    InferenceGRPCClient,
    InferenceRESTClient,
    InferInput,
    InferOutput,
    InferRequest,
    InferResponse,
    RESTConfig,
)

from clients.check import TRITON_EMBEDDER, TRITON_RANKER, Server
from clients.texts import FIVE, HUNDRED, QUERY

_PASSAGES = HUNDRED[:60]
_UNKNOWN = "no-such-model"


def _rest() -> InferenceRESTClient:
    return InferenceRESTClient(RESTConfig(protocol="v2", timeout=300))


def _column(name: str, texts: list[str], *, raw: bool) -> InferInput:
    tensor = InferInput(name, [len(texts), 1], "BYTES")
    array = np.array([[text.encode()] for text in texts], dtype=object)
    tensor.set_data_from_numpy(array, binary_data=raw)
    return tensor


def _ranking(*, raw: bool) -> InferRequest:
    columns = [_column("query", [QUERY], raw=raw), _column("passage", _PASSAGES, raw=raw)]
    return InferRequest(TRITON_RANKER, columns, parameters={"truncate": "END"})


def _embedding(*, raw: bool) -> InferRequest:
    asked = {"input_type": "passage"}
    return InferRequest(TRITON_EMBEDDER, [_column("text", FIVE, raw=raw)], parameters=asked)


def _output(answer: InferResponse, name: str) -> InferOutput:
    return next(output for output in answer.outputs if output.name == name)


def _by_grpc(server: Server, work: Callable[[InferenceGRPCClient], Awaitable[Any]]) -> Any:
    """The result of `work` with a client, whose channel belongs to one event loop."""

    async def run() -> Any:
        async with InferenceGRPCClient(server.grpc, timeout=300) as client:
            return await work(client)

    return asyncio.run(run())


def _assert_infers(server: Server, infer: Callable[[InferRequest], InferResponse]) -> None:
    wanted = np.array(server.logits(_PASSAGES))
    for raw in (False, True):
        logits = _output(infer(_ranking(raw=raw)), "logit").as_numpy().ravel()
        assert np.abs(logits - wanted).max() < 1e-3, f"raw={raw}"
        found = _output(infer(_embedding(raw=raw)), "embeddings").as_numpy()
        server.assert_embedded(FIVE, found.tolist(), "passage")


def rest_tells(server: Server) -> None:
    """REST: is_server_live, is_server_ready, is_model_ready"""

    async def run() -> None:
        client = _rest()
        assert await client.is_server_live(server.url) is True
        assert await client.is_server_ready(server.url) is True
        assert await client.is_model_ready(server.url, TRITON_RANKER) is True
        assert await client.is_model_ready(server.url, TRITON_EMBEDDER) is True
        assert await client.is_model_ready(server.url, _UNKNOWN) is False
        await client.close()

    asyncio.run(run())


def rest_infers(server: Server) -> None:
    """REST: infer on both models, with JSON and with binary data"""

    async def infer(request: InferRequest) -> InferResponse:
        client = _rest()
        answer = await client.infer(server.url, request, model_name=request.model_name)
        await client.close()
        return answer

    _assert_infers(server, lambda request: asyncio.run(infer(request)))


def grpc_tells(server: Server) -> None:
    """gRPC: is_server_live, is_server_ready, is_model_ready"""
    assert _by_grpc(server, lambda client: client.is_server_live()) is True
    assert _by_grpc(server, lambda client: client.is_server_ready()) is True
    assert _by_grpc(server, lambda client: client.is_model_ready(TRITON_RANKER)) is True
    assert _by_grpc(server, lambda client: client.is_model_ready(_UNKNOWN)) is False


def grpc_infers(server: Server) -> None:
    """gRPC: infer on both models"""
    _assert_infers(server, lambda request: _by_grpc(server, lambda client: client.infer(request)))
