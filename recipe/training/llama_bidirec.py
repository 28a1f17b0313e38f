"""The llama_bidirec family for transformers' own loader: a Llama with bidirectional attention.

A fine-tuned checkpoint contains a copy of this file, named by `auto_map` in its config.json, so
that `AutoModelForSequenceClassification.from_pretrained(DIR, trust_remote_code=True)` works in an
environment that has transformers and none of our packages; `make bench` gives it to peers in the
same way. Parameter names and config keys are those of nvidia/llama-nemotron-rerank-1b-v2;
`exporter/architectures/llama.py` is the same model as tensor functions, and the
export proves that the two agree.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaModel, LlamaPreTrainedModel
from transformers.modeling_outputs import SequenceClassifierOutput

_FLASH = "flash_attention_2"


class LlamaBidirectionalConfig(LlamaConfig):
    """Llama's config with `pooling` (avg, cls or last) and `temperature` of the logit."""

    model_type = "llama_bidirec"
    pooling: str = "avg"
    temperature: float = 1.0


class LlamaBidirectionalModel(LlamaModel):
    """Llama's layers without causal masks."""

    config_class = LlamaBidirectionalConfig

    def __init__(self, config: LlamaBidirectionalConfig) -> None:
        super().__init__(config)
        self.config.is_causal = False
        for layer in self.layers:
            layer.get_submodule("self_attn").is_causal = False  # type: ignore[assignment]


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
        """Raw logits; padding may be on either side."""
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        mask = attention_mask
        if self.config._attn_implementation != _FLASH:  # which takes the padding mask as it is
            sequence = input_ids.shape[1]
            # A ready-made mask: transformers 4.57 and others ignore `is_causal` in the config.
            mask = attention_mask[:, None, None, :].bool().expand(-1, 1, sequence, -1)
        states = self.model(input_ids=input_ids, attention_mask=mask, use_cache=False)
        pooled = self._pool(states.last_hidden_state.float(), attention_mask)
        logits = self.score(pooled.to(self.score.weight.dtype))
        return SequenceClassifierOutput(logits=logits / self.config.temperature)

    def _pool(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        """[batch, hidden]: the mean over real tokens, or the first or last real token's state."""
        weights = attention_mask.unsqueeze(-1).to(states.dtype)
        if self.config.pooling == "avg":
            return (states * weights).sum(1) / weights.sum(1).clamp(min=1.0)
        positions = torch.arange(states.shape[1], device=states.device)
        if self.config.pooling == "last":
            index = torch.where(attention_mask.bool(), positions, 0).amax(1)
        elif self.config.pooling == "cls":
            index = torch.where(attention_mask.bool(), positions, states.shape[1] - 1).amin(1)
        else:
            raise ValueError(
                f"config.json has pooling = {self.config.pooling!r}, wanted avg, cls or last"
            )
        return states[torch.arange(len(states), device=states.device), index]
