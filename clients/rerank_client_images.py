"""Our own client library with images: paths and bytes, on both of its surfaces."""

import asyncio
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import trio

from clients.check import Server, assert_says
from clients.pages import QUERY, Page, assert_ranked, pages
from rerank_client import AsyncRerankClient, Passage, RerankClient, RerankResult, nim
from rerank_client.surface import RERANK


def _passage(page: Page, folder: Path, place: int) -> str | Passage:
    """With the path of a file and its bytes by turns."""
    if not page.image:
        return page.text
    if place % 2:
        return {"text": page.text, "image": page.bytes}
    file = folder / f"{place}.png"
    file.write_bytes(page.bytes)
    return {"text": page.text, "image": file}


async def _ask(url: str, passages: Sequence[str | Passage], **options: Any) -> RerankResult:
    async with AsyncRerankClient(url, **options) as client:
        return await client.rerank(QUERY, passages)


def ranks(server: Server) -> None:
    """both clients on /rerank and /v1/ranking, 36 passages in one request; under trio as well"""
    given = pages()
    with tempfile.TemporaryDirectory() as name:
        passages = [_passage(page, Path(name), place) for place, page in enumerate(given)]
        for surface in (RERANK, nim()):
            ask = partial(_ask, server.url, passages, surface=surface)
            with RerankClient(server.url, surface=surface) as client:
                results = [client.rerank(QUERY, passages)]
            results += [asyncio.run(ask()), trio.run(partial(ask, sleep=trio.sleep))]
            for found in results:
                order = found.ranked_indices
                assert_ranked(given, order, [found.scores[index] for index in order])


def errors(server: Server) -> None:
    """what the server says of an image is in the RerankError, and so is what is none"""
    cut = pages()[1].bytes[:200]
    with RerankClient(server.url) as client:
        assert_says(
            lambda: client.rerank(QUERY, [{"image": cut}]), "documents[0].image: this image"
        )
        assert_says(lambda: client.rerank(QUERY, [{"image": b"%PDF"}]), "wanted a file of PNG")
