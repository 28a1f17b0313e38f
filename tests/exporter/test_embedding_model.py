"""Our embedding models against transformers' own bodies, pooled and normalised by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import BertConfig, BertModel, LlamaConfig, LlamaModel

from exporter.architectures.pooling import POOLINGS
from exporter.checkpoint import load_model, probe, read_checkpoint
from tests.tiny_checkpoints import BERT, LLAMA, write_llama_embedder, write_sentence_transformers


def load(directory: Path) -> Any:
    return load_model(read_checkpoint(str(directory)))


def batch(rows: int, length: int, real: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Ids and mask; the second row has `real` tokens and is padded on the right."""
    ids = torch.randint(5, 100, (rows, length), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, real:] = 0
    return ids, mask


def by_hand(states: torch.Tensor, mask: torch.Tensor, pooling: str) -> torch.Tensor:
    """Pooled row by row over the real tokens (padded on the right)."""
    rows = [row[: int(count)] for row, count in zip(states, mask.sum(dim=1), strict=True)]
    chosen = {"avg": lambda r: r.mean(dim=0), "cls": lambda r: r[0], "last": lambda r: r[-1]}
    return torch.stack([chosen[pooling](row) for row in rows])


@torch.inference_mode()
@pytest.mark.parametrize("pooling", POOLINGS)
def test_a_llama_gives_transformers_vectors(tmp_path: Path, pooling: str) -> None:
    ours = load(write_llama_embedder(tmp_path, pooling=pooling))
    probe(ours, 300)
    skipped = {"architectures", "model_type"}
    config = LlamaConfig(
        **{k: v for k, v in LLAMA.items() if k not in skipped},
        vocab_size=ours.body.embed_tokens.num_embeddings,
    )
    config.is_causal = False
    theirs = LlamaModel(config).eval()
    theirs.load_state_dict(ours.body.state_dict())
    for layer in theirs.layers:
        layer.self_attn.is_causal = False
    ids, mask = batch(3, 90, 30)
    pooled = by_hand(theirs(ids, attention_mask=mask).last_hidden_state, mask, pooling)
    wanted = pooled / pooled.norm(dim=1, keepdim=True)
    torch.testing.assert_close(ours(ids, mask), wanted, atol=1e-6, rtol=0)


@torch.inference_mode()
@pytest.mark.parametrize(("word", "pooling"), [("mean", "avg"), ("cls", "cls")])
@pytest.mark.parametrize("normalize", [True, False])
def test_a_bert_gives_transformers_vectors(
    tmp_path: Path, word: str, pooling: str, normalize: bool
) -> None:
    ours = load(write_sentence_transformers(tmp_path, pooling=word, normalize=normalize))
    vocabulary = ours.body.embeddings.word_embeddings.num_embeddings
    theirs = BertModel(BertConfig(**BERT | {"vocab_size": vocabulary}), add_pooling_layer=False)
    theirs.eval().load_state_dict(ours.body.state_dict())
    ids, mask = batch(3, 40, 25)
    wanted = by_hand(theirs(ids, attention_mask=mask).last_hidden_state, mask, pooling)
    if normalize:
        wanted = functional.normalize(wanted, dim=1)
    found = ours(ids, mask, torch.zeros_like(ids))
    torch.testing.assert_close(found, wanted, atol=5e-6, rtol=0)


@torch.inference_mode()
def test_half_precision_keeps_vectors_in_float32_and_of_length_one(tmp_path: Path) -> None:
    model = load(write_llama_embedder(tmp_path))
    ids, mask = batch(2, 12, 7)
    exact = model(ids, mask)
    rounded = model.halve(torch.float16)(ids, mask)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded.norm(dim=1), torch.ones(2), atol=1e-6, rtol=0)
    assert 1e-7 < (rounded - exact).abs().max() < 1e-2
    assert model.body.norm.weight.dtype == torch.float32


@torch.inference_mode()
def test_a_row_of_padding_alone_is_finite(tmp_path: Path) -> None:
    model = load(write_llama_embedder(tmp_path))
    ids, mask = batch(2, 6, 0)
    assert torch.isfinite(model(ids, mask)).all()
