"""nemo-retriever with images: hits with stored images, and embedding as its pipeline does it."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from nemo_retriever.models.inference.main_text_embed import (
    TextEmbeddingConfig,
    create_text_embeddings_for_df,
)
from nemo_retriever.operators.rerank import rerank_hits

from clients.check import Server, assert_says
from clients.pages import EMBEDDER, QUERY, RANKER, Page, assert_embedded, assert_ranked, pages


def _rank(url: str, given: Sequence[Page]) -> tuple[list[int], list[float]]:
    with tempfile.TemporaryDirectory() as name:
        hits: list[dict[str, Any]] = []
        for place, page in enumerate(given):
            hit: dict[str, Any] = {"place": place, "text": page.text}
            if page.image:
                stored = Path(name) / f"{place}.png"
                stored.write_bytes(page.bytes)
                hit["stored_image_uri"] = stored.as_uri()
            hits.append(hit)
        ranked = rerank_hits(
            QUERY, hits, rerank_invoke_url=url, model_name=RANKER, modality="text_image"
        )
    return [hit["place"] for hit in ranked], [hit["_rerank_score"] for hit in ranked]


def ranks(server: Server) -> None:
    """rerank_hits, 36 hits in one request, base64 alone beside a text, which may be empty"""
    given = pages()
    for path in ("", f"/v1/retrieval/{RANKER}/reranking"):
        assert_ranked(given, *_rank(f"{server.url}{path}", given))


def ranks_no_images_as_vllm(server: Server) -> None:
    """rerank_hits on /v1/rerank refuses images by itself"""
    assert_says(lambda: _rank(f"{server.url}/v1/rerank", pages()), "only supports text documents")


def _assert_embeds(server: Server, given: list[Page], modality: str) -> None:
    rows = pd.DataFrame(
        {"text": [one.text for one in given], "_image_b64": [one.image or None for one in given]}
    )
    config = TextEmbeddingConfig(
        embedding_nim_endpoint=f"{server.url}/v1",
        embedding_model=EMBEDDER,
        embed_modality=modality,
        output_payload_column="embedded",
    )
    embedded, _ = create_text_embeddings_for_df(rows, task_config={}, transform_config=config)
    assert_embedded(given, [one["embedding"] for one in embedded["embedded"]])


def embeds_images(server: Server) -> None:
    """create_text_embeddings_for_df, modality image"""
    _assert_embeds(server, [one for one in pages() if one.image and not one.text], "image")


def embeds_both(server: Server) -> None:
    """create_text_embeddings_for_df, modality text_image: both, one of them alone"""
    _assert_embeds(server, pages(), "text_image")
