"""The exact shapes of the 1B models and of Qwen3-Reranker-0.6B, and seeded weights for them."""

from typing import Any

import torch

from exporter.architectures import CROSS_ENCODERS
from exporter.architectures.base import Architecture
from exporter.architectures.config import Config

# nvidia/llama-nemotron-rerank-1b-v2, which has the shape of Llama-3.2-1B.
SHAPE: dict[str, Any] = {
    "architectures": ["LlamaBidirectionalForSequenceClassification"],
    "model_type": "llama_bidirec",
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 8192,
    "num_hidden_layers": 16,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "pooling": "avg",
    "temperature": 1.0,
    "num_labels": 1,
    "torch_dtype": "bfloat16",
    "random_weights": True,
}

# Qwen/Qwen3-Reranker-0.6B, with the one row of its head that an export keeps.
QWEN3_SHAPE: dict[str, Any] = {
    "architectures": ["Qwen3ForSequenceClassification"],
    "model_type": "qwen3",
    "hidden_act": "silu",
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 151669,
    "max_position_embeddings": 40960,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "num_labels": 1,
    "torch_dtype": "bfloat16",
    "random_weights": True,
}


def random_model(shape: dict[str, Any]) -> tuple[Architecture, dict[str, torch.Tensor]]:
    """A cross-encoder of `shape` on the device "meta", and seeded bfloat16 weights for it."""
    with torch.device("meta"):
        model = CROSS_ENCODERS[shape["architectures"][0]](Config(shape))
    generator = torch.Generator().manual_seed(0)
    return model, {
        name: _random_weight(name, parameter.shape, generator)
        for name, parameter in model.named_parameters()
    }


def _random_weight(name: str, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    """The bfloat16 weight called `name`, drawn from `generator`."""
    if name.endswith("norm.weight"):
        return torch.ones(shape, dtype=torch.bfloat16)
    # 0.02 is Llama's own initialisation; the head's is wider, to spread scores like trained ones.
    deviation = 1 / shape[-1] ** 0.5 if name == "score.weight" else 0.02
    return (torch.randn(shape, generator=generator) * deviation).to(torch.bfloat16)
