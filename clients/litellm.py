"""litellm: the provider nvidia_nim, on both of its paths."""

from typing import Any

import litellm

from clients.check import assert_ranked, assert_too_long, main, own_logits
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
    # litellm hands the text on and makes a 500 of every status.
    assert_too_long(
        lambda: _rerank(base_url, _RANKING_PATH, passages, truncate="NONE"), shows_status=False
    )


if __name__ == "__main__":
    main(hosted_path, ranking_path, unknown_field, too_long_is_cut, too_long_is_refused)
