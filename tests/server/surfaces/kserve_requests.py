"""Raw requests of KServe's two forms."""

import json
import struct
from typing import Any

import grpc
import httpx

from server.kserve.messages import Messages
from tests.waiting import PATIENCE_S

RANK = "nvidia_llama_nemotron_rerank_1b_v2"
INFER = f"/v2/models/{RANK}/infer"


def grpc_ready(port: int, model: str = RANK) -> bool:
    """What gRPC's ModelReady says of `model`; any other status than OK raises."""
    messages = Messages()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        ask = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelReady",
            request_serializer=lambda request: request.SerializeToString(),
            response_deserializer=messages["ModelReadyResponse"].FromString,
        )
        return bool(ask(messages["ModelReadyRequest"](name=model), timeout=PATIENCE_S).ready)


def body(**changes: Any) -> dict[str, Any]:
    passage = {"name": "passage", "shape": [2, 1], "datatype": "BYTES", "data": ["a", "b"]}
    query = {"name": "query", "shape": [1, 1], "datatype": "BYTES", "data": [["q"]]}
    return {"inputs": [query, {**passage, **changes}]}


def assert_refused(response: httpx.Response, status: int = 400) -> str:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert set(response.json()) == {"error"}
    return str(response.json()["error"])


def elements(*texts: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(text)) + text for text in texts)


def binary(raw: bytes, size: int | None = None, shape: int = 2) -> tuple[bytes, bytes]:
    """The JSON and the raw tensor of a request whose passages come as bytes."""
    changes = {"shape": [shape, 1], "parameters": {"binary_data_size": size or len(raw)}}
    asked = body(**changes)
    del asked["inputs"][1]["data"]
    return json.dumps(asked).encode(), raw


def send(client: httpx.Client, head: bytes, raw: bytes, length: str | None) -> httpx.Response:
    headers = {"content-type": "application/octet-stream"}
    if length is not None:
        headers["Inference-Header-Content-Length"] = length
    return client.post(INFER, content=head + raw, headers=headers)
