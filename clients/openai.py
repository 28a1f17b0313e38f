"""OpenAI's SDK: /v1/embeddings, base64 by default."""

import asyncio

import openai

from clients.check import NEW_EMBEDDER, OLD_EMBEDDER, Server, assert_says
from clients.texts import FIVE, HUNDRED, QUERY, TOO_LONG

_PASSAGE = {"input_type": "passage"}


def _client(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key="unused", max_retries=0)


def base64_is_read(server: Server) -> None:
    """embeddings.create, 100 texts, base64, input_type in extra_body"""
    reply = _client(server).embeddings.create(
        model=NEW_EMBEDDER, input=HUNDRED, extra_body=_PASSAGE
    )
    server.assert_embedded(HUNDRED, [item.embedding for item in reply.data], "passage")
    assert reply.usage.total_tokens > len(HUNDRED), reply.usage


def floats_are_read(server: Server) -> None:
    """embeddings.create, float, one text, dimensions 16"""
    reply = _client(server).embeddings.create(
        model=NEW_EMBEDDER,
        input=QUERY,
        encoding_format="float",
        dimensions=16,
        extra_body={"input_type": "query"},
    )
    server.assert_embedded([QUERY], [reply.data[0].embedding], "query", 16)


def suffix(server: Server) -> None:
    """embeddings.create, the model's name ends in -query or -passage"""
    for kind in ("query", "passage"):
        model = f"{OLD_EMBEDDER}-{kind}"
        reply = _client(server).embeddings.create(model=model, input=FIVE)
        server.assert_embedded(FIVE, [item.embedding for item in reply.data], kind)
        assert reply.model == model, reply.model


def asynchronous(server: Server) -> None:
    """AsyncOpenAI, many requests at once"""

    async def ask() -> list[list[float]]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key="unused") as client:
            calls = [
                client.embeddings.create(model=NEW_EMBEDDER, input=text, extra_body=_PASSAGE)
                for text in HUNDRED
            ]
            return [reply.data[0].embedding for reply in await asyncio.gather(*calls)]

    server.assert_embedded(HUNDRED, asyncio.run(ask()), "passage")


def errors(server: Server) -> None:
    """errors keep their class and their words"""
    create = _client(server).embeddings.create
    query = f"{NEW_EMBEDDER}-query"
    for status, model, given, words in (
        (openai.BadRequestError, NEW_EMBEDDER, "a", "'input_type' parameter"),
        (openai.NotFoundError, "nobody-query", "a", "not served here"),
        (openai.UnprocessableEntityError, query, TOO_LONG, "exceeds maximum allowed token size"),
        (openai.BadRequestError, query, [[1, 2, 3]], "token ids"),
    ):
        call = {"model": model, "input": given}
        assert_says(lambda call=call: create(**call), status.__name__, words)


def models(server: Server) -> None:
    """models.list names both"""
    assert len(_client(server).models.list().data) == 2
