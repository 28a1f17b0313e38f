"""OpenAI's SDK: /v1/embeddings, base64 by default."""

import asyncio

import openai

from clients.check import (
    NEW_EMBEDDER,
    OLD_EMBEDDER,
    assert_says,
    assert_vectors,
    main,
    own_vectors,
)
from clients.texts import FIVE, HUNDRED, QUERY, TOO_LONG

_PASSAGE = {"input_type": "passage"}


def _client(base_url: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{base_url}/v1", api_key="unused", max_retries=0)


def base64_is_read(base_url: str) -> None:
    """embeddings.create, 100 texts, base64, input_type in extra_body"""
    reply = _client(base_url).embeddings.create(
        model=NEW_EMBEDDER, input=HUNDRED, extra_body=_PASSAGE
    )
    found = [item.embedding for item in reply.data]
    assert_vectors(found, own_vectors(base_url, HUNDRED, "passage"))
    assert reply.usage.total_tokens > len(HUNDRED), reply.usage


def floats_are_read(base_url: str) -> None:
    """embeddings.create, float, one text, dimensions 16"""
    reply = _client(base_url).embeddings.create(
        model=NEW_EMBEDDER,
        input=QUERY,
        encoding_format="float",
        dimensions=16,
        extra_body={"input_type": "query"},
    )
    assert_vectors([reply.data[0].embedding], own_vectors(base_url, [QUERY], "query", 16))


def suffix(base_url: str) -> None:
    """embeddings.create, the model's name ends in -query or -passage"""
    for kind in ("query", "passage"):
        model = f"{OLD_EMBEDDER}-{kind}"
        reply = _client(base_url).embeddings.create(model=model, input=FIVE)
        assert_vectors([item.embedding for item in reply.data], own_vectors(base_url, FIVE, kind))
        assert reply.model == model, reply.model


def asynchronous(base_url: str) -> None:
    """AsyncOpenAI, many requests at once"""

    async def ask() -> list[list[float]]:
        async with openai.AsyncOpenAI(base_url=f"{base_url}/v1", api_key="unused") as client:
            calls = [
                client.embeddings.create(model=NEW_EMBEDDER, input=text, extra_body=_PASSAGE)
                for text in HUNDRED
            ]
            return [reply.data[0].embedding for reply in await asyncio.gather(*calls)]

    assert_vectors(asyncio.run(ask()), own_vectors(base_url, HUNDRED, "passage"))


def errors(base_url: str) -> None:
    """errors keep their class and their words"""
    create = _client(base_url).embeddings.create
    for status, call, words in (
        (openai.BadRequestError, {"model": NEW_EMBEDDER, "input": "a"}, "'input_type' parameter"),
        (openai.NotFoundError, {"model": "nobody-query", "input": "a"}, "not served here"),
        (
            openai.UnprocessableEntityError,
            {"model": f"{NEW_EMBEDDER}-query", "input": TOO_LONG},
            "exceeds maximum allowed token size",
        ),
        (
            openai.BadRequestError,
            {"model": f"{NEW_EMBEDDER}-query", "input": [[1, 2, 3]]},
            "token ids",
        ),
    ):
        assert_says(lambda call=call: create(**call), status.__name__, words)


def models(base_url: str) -> None:
    """models.list names both"""
    assert len(_client(base_url).models.list().data) == 2


if __name__ == "__main__":
    main(base64_is_read, floats_are_read, suffix, asynchronous, errors, models)
