"""The attention of the PyTorch baseline, and its mask."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from benchmarks.gpu import candidates
from benchmarks.gpu.candidates import FLASH, usual_attention
from recipe.training.llama_bidirec import (
    LlamaBidirectionalConfig,
    LlamaBidirectionalForSequenceClassification,
)


@pytest.mark.parametrize(
    ("device", "dtype", "installed", "wanted"),
    [
        ("cuda", torch.bfloat16, True, FLASH),
        ("cuda:0", torch.float16, True, FLASH),
        ("cuda", torch.bfloat16, False, "sdpa"),
        ("cuda", torch.float32, True, "sdpa"),
        ("cpu", torch.bfloat16, True, "sdpa"),
    ],
)
def test_flash_attention_is_taken_where_it_can_be(
    monkeypatch: pytest.MonkeyPatch, device: str, dtype: Any, installed: bool, wanted: str
) -> None:
    monkeypatch.setattr(candidates, "find_spec", lambda _: object() if installed else None)
    assert usual_attention(device, dtype) == wanted


@pytest.mark.parametrize(("attention", "dimensions"), [("sdpa", 4), (FLASH, 2)])
def test_flash_attention_gets_the_padding_and_sdpa_a_mask(
    monkeypatch: pytest.MonkeyPatch, attention: str, dimensions: int
) -> None:
    config = LlamaBidirectionalConfig(
        hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2, vocab_size=9
    )
    model = LlamaBidirectionalForSequenceClassification(config)
    monkeypatch.setattr(config, "_attn_implementation", attention, raising=False)
    model.config = config
    seen = []

    def states(input_ids: Any, attention_mask: Any, use_cache: bool) -> Any:
        seen.append(attention_mask.dim())
        return SimpleNamespace(last_hidden_state=torch.zeros(*input_ids.shape, 8))

    monkeypatch.setattr(model.model, "forward", states)
    ids = torch.ones((2, 3), dtype=torch.int64)
    assert model(ids, torch.ones_like(ids)).logits.shape == (2, 1)
    assert seen == [dimensions]
