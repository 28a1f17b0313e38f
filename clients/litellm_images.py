"""litellm with images: nvidia_nim on /v1/ranking and to embed, Jina's and vLLM's dialects.

Its other path of nvidia_nim, /v1/retrieval/…/reranking, sends no images: it makes JSON texts of
them. litellm 1.95 did so on /v1/ranking, too.
"""

import math
from typing import Any

import litellm

from clients.check import Server
from clients.pages import EMBEDDER, QUERY, RANKER, Page, assert_embedded, assert_ranked, pages


def _rerank(url: str, model: str, documents: list[Any]) -> tuple[list[int], list[float]]:
    reply = litellm.rerank(
        model=model, query=QUERY, documents=documents, api_base=url, api_key="unused"
    )
    found = list(reply.results)
    return [one["index"] for one in found], [one["relevance_score"] for one in found]


def _passage(page: Page) -> dict[str, str]:
    """With a text, an image, or both."""
    text = {"text": page.text} if page.text else {}
    return text | ({"image": page.url} if page.image else {})


def _content(page: Page) -> dict[str, list[Any]]:
    """vLLM's parts."""
    image = [{"type": "image_url", "image_url": {"url": page.url}}] if page.image else []
    text = [{"type": "text", "text": page.text}] if page.text else []
    return {"content": image + text}


def _assert_relevant(given: list[Page], order: list[int], scores: list[float]) -> None:
    """The scores are sigmoids of logits."""
    assert_ranked(given, order, [math.log(one / (1 - one)) for one in scores])


def ranks(server: Server) -> None:
    """rerank, /v1/ranking, 36 documents in one request: texts, images, both"""
    given = pages()
    found = _rerank(server.url, f"nvidia_nim/ranking/{RANKER}", [_passage(one) for one in given])
    assert_ranked(given, *found)


def jina(server: Server) -> None:
    """rerank as jina_ai, documents with an image"""
    given = pages()
    found = _rerank(f"{server.url}/v1/rerank", "jina_ai/any", [_passage(one) for one in given])
    _assert_relevant(given, *found)


def vllm(server: Server) -> None:
    """rerank as hosted_vllm, documents of parts"""
    given = pages()
    _assert_relevant(
        given, *_rerank(server.url, "hosted_vllm/any", [_content(one) for one in given])
    )


def embeds(server: Server) -> None:
    """embedding as nvidia_nim, data URLs as texts, with a modality for each"""
    given = pages()
    kinds = {(True, False): "text", (False, True): "image", (True, True): "text_image"}
    reply = litellm.embedding(
        model=f"nvidia_nim/{EMBEDDER}",
        input=[f"{one.text}\n{one.url}".strip() for one in given],
        api_base=f"{server.url}/v1",
        api_key="unused",
        input_type="passage",
        modality=[kinds[bool(one.text), bool(one.image)] for one in given],
    )
    assert_embedded(given, [item["embedding"] for item in reply.data])


def embeds_as_jina(server: Server) -> None:
    """embedding as jina_ai: objects with a text or an image"""
    given = [one for one in pages() if not (one.text and one.image)]
    reply = litellm.embedding(
        model=f"jina_ai/{EMBEDDER}",
        input=[one.url or one.text for one in given],
        api_base=f"{server.url}/v1",
        api_key="unused",
        task="retrieval.passage",
    )
    assert_embedded(given, [item["embedding"] for item in reply.data])
