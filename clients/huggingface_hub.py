"""huggingface_hub's InferenceClient against the routes of Text Embeddings Inference."""

import asyncio

from huggingface_hub import AsyncInferenceClient, InferenceClient

from clients.check import assert_says, assert_vectors, main, own_vectors
from clients.texts import FIVE, HUNDRED, QUERY, TOO_LONG


def _client(base_url: str) -> InferenceClient:
    return InferenceClient(f"{base_url}/embed")


def without_prompt(base_url: str) -> None:
    """feature_extraction without a prompt: one text and 100; EMBED_DEFAULT_INPUT_TYPE"""
    client = _client(base_url)
    found = client.feature_extraction(QUERY).tolist()
    assert_vectors(found, own_vectors(base_url, [QUERY], "passage"))
    found = client.feature_extraction(HUNDRED).tolist()
    assert_vectors(found, own_vectors(base_url, HUNDRED, "passage"))


def with_prompt(base_url: str) -> None:
    """feature_extraction with prompt_name, normalize, dimensions; asynchronously too"""
    wanted = own_vectors(base_url, FIVE, "query", 16)
    asked = {"prompt_name": "query", "normalize": True, "dimensions": 16}
    assert_vectors(_client(base_url).feature_extraction(FIVE, **asked).tolist(), wanted)

    async def run() -> list[list[float]]:
        async with AsyncInferenceClient(f"{base_url}/embed") as client:
            return (await client.feature_extraction(FIVE, **asked)).tolist()

    assert_vectors(asyncio.run(run()), wanted)


def too_long(base_url: str) -> None:
    """feature_extraction, truncate true and false"""
    client = _client(base_url)
    found = client.feature_extraction([TOO_LONG], truncate=True).tolist()
    assert_vectors(found, own_vectors(base_url, [TOO_LONG], "passage"))
    assert_says(lambda: client.feature_extraction([TOO_LONG], truncate=False), "422", "exceeds")


def tells(base_url: str) -> None:
    """health_check, get_endpoint_info"""
    client = InferenceClient(base_url, provider="hf-inference")
    assert client.health_check()
    info = client.get_endpoint_info()
    assert {"model_id", "max_input_length", "max_client_batch_size"} <= set(info)


if __name__ == "__main__":
    main(without_prompt, with_prompt, too_long, tells)
