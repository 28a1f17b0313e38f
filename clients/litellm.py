"""litellm: nvidia_nim on both of its ranking paths and to embed; five other rerank providers."""

from typing import Any

import litellm

from clients.check import OLD_EMBEDDER, Server, assert_too_long
from clients.texts import FIVE, QUERY, TOO_LONG

_HOSTED_PATH = "nvidia_nim/nvidia/llama-3_2-nv-rerankqa-1b-v2"
_RANKING_PATH = "nvidia_nim/ranking/nvidia/llama-3.2-nv-rerankqa-1b-v2"


def _rerank(url: str, model: str, passages: list[str], **options: Any) -> list[Any]:
    reply = litellm.rerank(
        model=model,
        query=QUERY,
        documents=passages,
        api_base=url,
        api_key="unused",
        **options,
    )
    return list(reply.results)


def _assert_ranks(server: Server, results: list[Any], passages: list[str]) -> None:
    server.assert_ranked(passages, *_order(results))


def _order(results: list[Any]) -> tuple[list[int], list[float]]:
    return [one["index"] for one in results], [one["relevance_score"] for one in results]


def hosted_path(server: Server) -> None:
    """rerank, /v1/retrieval/nvidia/llama-3_2-nv-rerankqa-1b-v2/reranking"""
    _assert_ranks(server, _rerank(server.url, _HOSTED_PATH, FIVE), FIVE)


def ranking_path(server: Server) -> None:
    """rerank, /v1/ranking"""
    _assert_ranks(server, _rerank(server.url, _RANKING_PATH, FIVE), FIVE)


def unknown_field(server: Server) -> None:
    """rerank with top_n: top_k to the hosted path, which ignores it; not sent to /v1/ranking"""
    _assert_ranks(server, _rerank(server.url, _HOSTED_PATH, FIVE, top_n=2), FIVE)
    both = [_rerank(server.url, _RANKING_PATH, FIVE, **more) for more in ({}, {"top_n": 2})]
    assert both[1] == both[0][:2], both


def too_long_is_cut(server: Server) -> None:
    """rerank, truncate END"""
    passages = [*FIVE, TOO_LONG]
    results = _rerank(server.url, _RANKING_PATH, passages, truncate="END")
    _assert_ranks(server, results, passages)


def too_long_is_refused(server: Server) -> None:
    """rerank, truncate NONE and a text that is too long"""
    passages = [*FIVE, TOO_LONG]
    # litellm passes the text on and turns every status into a 500.
    assert_too_long(
        lambda: _rerank(server.url, _RANKING_PATH, passages, truncate="NONE"), shows_status=False
    )


def dialects(server: Server) -> None:
    """rerank as cohere, jina_ai, hosted_vllm, infinity and huggingface"""
    for model, path, options in (
        ("cohere/any", "", {}),
        ("jina_ai/any", "/v1/rerank", {}),
        ("hosted_vllm/any", "", {}),
        ("infinity/any", "", {"return_documents": False}),
        ("huggingface/any", "", {}),
    ):
        results = _rerank(server.url + path, model, FIVE, **options)
        try:
            server.assert_relevant(FIVE, *_order(results))
        except AssertionError as error:
            raise AssertionError(f"{model}: {error}") from error


def embeds(server: Server) -> None:
    """embedding as nvidia_nim, encoding_format null and an input_type"""
    reply = litellm.embedding(
        model=f"nvidia_nim/{OLD_EMBEDDER}",
        input=FIVE,
        api_base=f"{server.url}/v1",
        api_key="unused",
        input_type="passage",
        encoding_format=None,
    )
    server.assert_embedded(FIVE, [item["embedding"] for item in reply.data], "passage")
