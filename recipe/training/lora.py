"""Low-rank adapters (LoRA, Hu et al. 2021) by the package peft: what is trained instead of all."""

import warnings
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel


def add_lora(model: PreTrainedModel, rank: int, seed: int) -> Any:
    """The model with an adapter on every linear layer below its head, which is trained whole.

    Adapters are scaled by alpha / rank = 2. The scores begin as they were: B is zero, A
    random by `seed`.
    """
    from peft import LoraConfig, get_peft_model  # late: only this needs it

    body = model.base_model_prefix
    layers = [
        name
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and name.startswith(f"{body}.")
    ]
    heads = [
        name
        for name, part in model.named_children()
        if name != body and next(part.parameters(), None) is not None
    ]
    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, target_modules=layers, modules_to_save=heads, lora_dropout=0.0
    )
    with warnings.catch_warnings(), torch.random.fork_rng():
        torch.manual_seed(seed)
        # peft 0.21 asks transformers 5 for a property by its old name.
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing`", FutureWarning)
        return get_peft_model(model, config)


def merged(model: Any) -> PreTrainedModel:
    """The plain model, with the adapter added to its weights."""
    found: PreTrainedModel = model.merge_and_unload()
    return found
