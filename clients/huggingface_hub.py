"""huggingface_hub's InferenceClient against the routes of Text Embeddings Inference."""

import asyncio

from huggingface_hub import AsyncInferenceClient, InferenceClient

from clients.check import Server, assert_says
from clients.texts import FIVE, HUNDRED, QUERY, TOO_LONG


def _client(server: Server) -> InferenceClient:
    return InferenceClient(f"{server.url}/embed")


def without_prompt(server: Server) -> None:
    """feature_extraction without a prompt: one text and 100; EMBED_DEFAULT_INPUT_TYPE"""
    client = _client(server)
    server.assert_embedded([QUERY], client.feature_extraction(QUERY).tolist(), "passage")
    server.assert_embedded(HUNDRED, client.feature_extraction(HUNDRED).tolist(), "passage")


def with_prompt(server: Server) -> None:
    """feature_extraction with prompt_name, normalize, dimensions; asynchronously too"""
    asked = {"prompt_name": "query", "normalize": True, "dimensions": 16}

    async def run() -> list[list[float]]:
        async with AsyncInferenceClient(f"{server.url}/embed") as client:
            return (await client.feature_extraction(FIVE, **asked)).tolist()

    for found in (_client(server).feature_extraction(FIVE, **asked).tolist(), asyncio.run(run())):
        server.assert_embedded(FIVE, found, "query", 16)


def too_long(server: Server) -> None:
    """feature_extraction, truncate true and false"""
    client = _client(server)
    found = client.feature_extraction([TOO_LONG], truncate=True).tolist()
    server.assert_embedded([TOO_LONG], found, "passage")
    assert_says(lambda: client.feature_extraction([TOO_LONG], truncate=False), "422", "exceeds")


def tells(server: Server) -> None:
    """health_check, get_endpoint_info"""
    client = InferenceClient(server.url, provider="hf-inference")
    assert client.health_check()
    info = client.get_endpoint_info()
    assert {"model_id", "max_input_length", "max_client_batch_size"} <= set(info)
