"""litellm: nvidia_nim on both of its ranking paths and to embed; five other rerank providers."""

from typing import Any

import litellm

from clients.check import (
    OLD_EMBEDDER,
    assert_ranked,
    assert_too_long,
    assert_vectors,
    main,
    own_logits,
    own_relevances,
    own_vectors,
)
from clients.texts import FIVE, QUERY, TOO_LONG

_HOSTED_PATH = "nvidia_nim/nvidia/llama-3_2-nv-rerankqa-1b-v2"
_RANKING_PATH = "nvidia_nim/ranking/nvidia/llama-3.2-nv-rerankqa-1b-v2"


def _rerank(base_url: str, model: str, passages: list[str], **options: Any) -> list[Any]:
    reply = litellm.rerank(
        model=model,
        query=QUERY,
        documents=passages,
        api_base=base_url,
        api_key="unused",
        **options,
    )
    return list(reply.results)


def _assert_ranks(base_url: str, results: list[Any], passages: list[str]) -> None:
    assert_ranked(
        [result["index"] for result in results],
        own_logits(base_url, QUERY, passages),
        [result["relevance_score"] for result in results],
    )


def hosted_path(base_url: str) -> None:
    """rerank, /v1/retrieval/nvidia/llama-3_2-nv-rerankqa-1b-v2/reranking"""
    _assert_ranks(base_url, _rerank(base_url, _HOSTED_PATH, FIVE), FIVE)


def ranking_path(base_url: str) -> None:
    """rerank, /v1/ranking"""
    _assert_ranks(base_url, _rerank(base_url, _RANKING_PATH, FIVE), FIVE)


def unknown_field(base_url: str) -> None:
    """rerank with top_n, sent as top_k: ignored on both paths"""
    for model in (_HOSTED_PATH, _RANKING_PATH):
        _assert_ranks(base_url, _rerank(base_url, model, FIVE, top_n=2), FIVE)


def too_long_is_cut(base_url: str) -> None:
    """rerank, truncate END"""
    passages = [*FIVE, TOO_LONG]
    results = _rerank(base_url, _RANKING_PATH, passages, truncate="END")
    _assert_ranks(base_url, results, passages)


def too_long_is_refused(base_url: str) -> None:
    """rerank, truncate NONE and a text that is too long"""
    passages = [*FIVE, TOO_LONG]
    # litellm passes the text on and turns every status into a 500.
    assert_too_long(
        lambda: _rerank(base_url, _RANKING_PATH, passages, truncate="NONE"), shows_status=False
    )


def dialects(base_url: str) -> None:
    """rerank as cohere, jina_ai, hosted_vllm, infinity and huggingface"""
    wanted = own_relevances(base_url, QUERY, FIVE)
    for model, path, options in (
        ("cohere/any", "", {}),
        ("jina_ai/any", "/v1/rerank", {}),
        ("hosted_vllm/any", "", {}),
        ("infinity/any", "", {"return_documents": False}),
        ("huggingface/any", "", {}),
    ):
        results = _rerank(base_url + path, model, FIVE, **options)
        scores = [result["relevance_score"] for result in results]
        try:
            assert_ranked([result["index"] for result in results], wanted, scores)
        except AssertionError as error:
            raise AssertionError(f"{model}: {error}") from error


def embeds(base_url: str) -> None:
    """embedding as nvidia_nim, encoding_format null and an input_type"""
    reply = litellm.embedding(
        model=f"nvidia_nim/{OLD_EMBEDDER}",
        input=FIVE,
        api_base=f"{base_url}/v1",
        api_key="unused",
        input_type="passage",
        encoding_format=None,
    )
    found = [item["embedding"] for item in reply.data]
    assert_vectors(found, own_vectors(base_url, FIVE, "passage"))


if __name__ == "__main__":
    main(
        hosted_path,
        ranking_path,
        unknown_field,
        too_long_is_cut,
        too_long_is_refused,
        dialects,
        embeds,
    )
