"""The llama_bidirec family for peers that load checkpoints through transformers.

A Llama that reads both ways, mean pooling, a score without bias. transformers 4.57 ignores
`is_causal = False` in the config, so the mask is handed over ready-made, which every version takes
as it is. Runs in the peers' environments.
"""

from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel, LlamaPreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

FLASH = "flash_attention_2"


def usual_attention(device: str, dtype: torch.dtype) -> str:
    """Flash attention in half precision on a GPU where its package is installed, else sdpa."""
    half = dtype in (torch.float16, torch.bfloat16)
    return FLASH if device.startswith("cuda") and half and find_spec("flash_attn") else "sdpa"


class LlamaBidirectionalConfig(LlamaConfig):
    """Llama's config under the family's own name."""

    model_type = "llama_bidirec"


class LlamaBidirectionalModel(LlamaModel):
    """Llama's layers, none of them causal."""

    config_class = LlamaBidirectionalConfig

    def __init__(self, config: LlamaBidirectionalConfig) -> None:
        super().__init__(config)
        self.config.is_causal = False
        for layer in self.layers:
            layer.self_attn.is_causal = False


class LlamaBidirectionalForSequenceClassification(LlamaPreTrainedModel):
    """input_ids, attention_mask int64 [batch, sequence] → logits [batch, 1]."""

    config_class = LlamaBidirectionalConfig

    def __init__(self, config: LlamaBidirectionalConfig) -> None:
        super().__init__(config)
        self.num_labels = 1
        self.model = LlamaBidirectionalModel(config)
        self.score = nn.Linear(config.hidden_size, 1, bias=False)
        self.post_init()

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, **_: Any
    ) -> SequenceClassifierOutput:
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        mask = attention_mask
        if self.config._attn_implementation != FLASH:  # which takes padding as it comes
            sequence = input_ids.shape[1]
            mask = attention_mask[:, None, None, :].bool().expand(-1, 1, sequence, -1)
        states = self.model(input_ids=input_ids, attention_mask=mask, use_cache=False)
        weights = attention_mask.unsqueeze(-1).float()
        summed = (states.last_hidden_state.float() * weights).sum(1)
        pooled = summed / weights.sum(1)
        return SequenceClassifierOutput(logits=self.score(pooled.to(self.score.weight.dtype)))
