"""Merged weights are those that peft merges, from files that peft wrote."""

from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification

from exporter.adapter import read_adapter
from exporter.checkpoint import load_model, read_checkpoint
from exporter.errors import CheckpointRefused
from tests.tiny_checkpoints import write_bert, write_sentence_transformers

# peft asks transformers by an older name.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated")


def adapt(
    base: Path, adapter: Path, *, saves: bool | str = "auto", **settings: Any
) -> dict[str, torch.Tensor]:
    """Write an adapter of the base with peft, which `saves` embeddings; the sum that peft makes of
    both, by name."""
    model = peft.get_peft_model(
        BertForSequenceClassification.from_pretrained(base, num_labels=1),
        peft.LoraConfig(r=4, **settings),
    )
    generator = torch.Generator().manual_seed(0)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(adapter, save_embedding_layers=saves)
    return dict(model.merge_and_unload().state_dict())


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["query", "value"], "task_type": "SEQ_CLS"},
        {"target_modules": ["key", "dense"], "use_rslora": True, "lora_alpha": 5},
        {"target_modules": "all-linear", "modules_to_save": ["classifier"]},
        {"target_modules": ["query", "dense"], "layers_to_transform": [1]},
        {"target_modules": ["value"], "modules_to_save": ["pooler", "word_embeddings"]},
        {"target_modules": ["query"], "init_lora_weights": "orthogonal"},
    ],
    ids=["head", "rslora", "all-linear", "one layer", "saved", "orthogonal"],
)
def test_the_sum_is_that_of_peft(settings: dict[str, Any], tmp_path: Path) -> None:
    base, adapter = write_bert(tmp_path / "base"), tmp_path / "adapter"
    wanted = adapt(base, adapter, **settings)
    before = load_model(read_checkpoint(str(base))).state_dict()
    found = load_model(read_checkpoint(str(base), str(adapter))).state_dict()
    assert any(not torch.equal(found[name], before[name]) for name in found)
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, wanted[name], atol=1e-6, rtol=0)


def test_so_is_that_of_an_embedding(tmp_path: Path) -> None:
    """Whose base weights peft saves as well."""
    base, adapter = write_bert(tmp_path / "base"), tmp_path / "adapter"
    wanted = adapt(base, adapter, saves=True, target_modules=["word_embeddings", "query"])
    held = read_adapter(adapter).tensors
    assert any(name.endswith("word_embeddings.base_layer.weight") for name in held)
    found = load_model(read_checkpoint(str(base), str(adapter))).state_dict()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, wanted[name], atol=1e-6, rtol=0)


def test_a_vocabulary_that_grew_is_refused(tmp_path: Path) -> None:
    base, grown = write_bert(tmp_path / "base"), write_bert(tmp_path / "grown")
    model = BertForSequenceClassification.from_pretrained(grown, num_labels=1)
    model.resize_token_embeddings(model.config.vocab_size + 8)
    model = peft.get_peft_model(model, peft.LoraConfig(target_modules=["query"], r=4))
    model.save_pretrained(tmp_path / "adapter", save_embedding_layers=True)
    with pytest.raises(CheckpointRefused, match=r"word_embeddings.*the base has \["):
        read_checkpoint(str(base), str(tmp_path / "adapter"))


def test_an_embedder_s_pooler_needs_no_place(tmp_path: Path) -> None:
    base = write_sentence_transformers(tmp_path / "base")
    model = peft.get_peft_model(
        BertForSequenceClassification(BertConfig.from_pretrained(base)).bert,
        peft.LoraConfig(
            r=4, target_modules=["query", "pooler.dense"], task_type="FEATURE_EXTRACTION"
        ),
    )
    model.save_pretrained(tmp_path / "adapter")
    held = read_adapter(tmp_path / "adapter").tensors
    assert any("pooler" in name for name in held)
    read_checkpoint(str(base), str(tmp_path / "adapter"))
