"""The architecture in torch: a bidirectional Llama, mean pooling, one bias-free linear layer.

A checkpoint is a Hugging Face directory; ``load`` and ``save`` are its two ends here.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import LlamaConfig, LlamaModel

SHAPE = {
    "vocab_size": 10240,
    "hidden_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "intermediate_size": 256,
    "max_position_embeddings": 8192,
    "rms_norm_eps": 1e-5,
    "hidden_act": "silu",
    "attention_bias": False,
    "attention_dropout": 0.0,
    "mlp_bias": False,
    "tie_word_embeddings": True,
    "initializer_range": 0.02,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 1,
}
ROPE_THETA = 500000.0


def _stack() -> LlamaModel:
    rope = {"rope_type": "default", "rope_theta": ROPE_THETA}
    config = LlamaConfig(**SHAPE, rope_parameters=rope, use_cache=False)
    config.is_causal = False
    stack = LlamaModel(config)
    for layer in stack.layers:
        layer.self_attn.is_causal = False
    return stack


def _mean(stack: nn.Module, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    states = stack(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
    mask = attention_mask[..., None].float()
    return (states.float() * mask).sum(1) / mask.sum(1)


class Ranker(nn.Module):
    """Token ids in, one logit per row out; parameter names are those of the checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        self.model = _stack()
        self.score = nn.Linear(SHAPE["hidden_size"], 1, bias=False)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """[rows, tokens] int64, twice -> logits [rows] float32 (the temperature is 1)."""
        return self.score(_mean(self.model, input_ids, attention_mask)).squeeze(-1)


class Embedder(nn.Module):
    """Token ids in, one vector per row out; parameter names are those of the checkpoint."""

    def __init__(self) -> None:
        super().__init__()
        stack = _stack()
        self.embed_tokens, self.layers, self.norm = stack.embed_tokens, stack.layers, stack.norm
        # Not a submodule, so that its parameters have one name each.
        self.__dict__["stack"] = stack

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """[rows, tokens] int64, twice -> [rows, 128] float32, not normalised."""
        return _mean(self.__dict__["stack"], input_ids, attention_mask)


_RANKER = {
    "architectures": ["LlamaBidirectionalForSequenceClassification"],
    "temperature": 1.0,
    "num_labels": 1,
    "id2label": {"0": "LABEL_0"},
    "label2id": {"LABEL_0": 0},
}
_EMBEDDER = {"architectures": ["LlamaBidirectionalModel"]}


def save(model: Ranker | Embedder, folder: Path) -> None:
    """Write config.json and model.safetensors (float32) into an existing folder."""
    kind = _RANKER if isinstance(model, Ranker) else _EMBEDDER
    config = (
        SHAPE
        | kind
        | {
            "model_type": "llama_bidirec",
            "pooling": "avg",
            "rope_theta": ROPE_THETA,
            "rope_scaling": None,
            "use_cache": False,
            "torch_dtype": "float32",
        }
    )
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (folder / "config.json").write_text(text, encoding="utf-8")
    weights = {name: value.detach().contiguous() for name, value in model.state_dict().items()}
    file = folder / "model.safetensors"
    save_file(weights, file, metadata={"format": "pt"})
    file.chmod(0o644)  # safetensors makes it readable by its owner only


def load(folder: Path) -> Ranker:
    """The ranker as it is stored, ready to score."""
    ranker = Ranker()
    ranker.load_state_dict(load_file(folder / "model.safetensors"))
    return ranker.eval()


def load_embedder(folder: Path) -> Embedder:
    """The embedder as it is stored, ready to embed."""
    embedder = Embedder()
    embedder.load_state_dict(load_file(folder / "model.safetensors"))
    return embedder.eval()
