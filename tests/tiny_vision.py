"""Seeded checkpoints of NVIDIA's vision models, of a shape in which no mix-up of axes, norms,
activations or scalings stays hidden: biases are large, norms are not one, a tile has 3 × 3 tokens.

Names and shapes are written out, as the real files have them; none of our modules is asked.
"""

import math
from collections.abc import Iterator
from copy import deepcopy
from io import BytesIO
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tokenizers
import torch
from PIL import Image
from safetensors.torch import save_file
from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors

from tests.tiny_checkpoints import write_config, write_tokenizer

BOS, EOS, PAD = "<|begin_of_text|>", "<|end_of_text|>", "<|finetune_right_pad_id|>"
BEFORE, AFTER, CONTEXT = "<img>", "</img>", "<IMG_CONTEXT>"
SIZE = 96
TOKENS = 9
_SPECIALS = (
    *(BOS, EOS, PAD),
    *(f"<|reserved_special_token_{n}|>" for n in range(5)),
    *(BEFORE, AFTER, CONTEXT),
    *(f"<|reserved_special_token_{n}|>" for n in range(5, 10)),
)

VISION: dict[str, Any] = {
    "model_type": "siglip_vision_model",
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_channels": 3,
    "image_size": SIZE,
    "patch_size": 16,
    "layer_norm_eps": 1e-6,
    "hidden_act": "gelu_pytorch_tanh",
    "attention_dropout": 0.0,
}
LLM: dict[str, Any] = {
    "model_type": "llama_bidirec",
    "architectures": ["LlamaBidirectionalModel"],
    "vocab_size": 272,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "hidden_act": "silu",
    "max_position_embeddings": 2048,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "pooling": "avg",
    "temperature": 0.5,
}
RERANKER: dict[str, Any] = {
    "architectures": ["LlamaNemotronVLForSequenceClassification"],
    "model_type": "llama_nemotron_vl_rerank",
    "torch_dtype": "bfloat16",
    "select_layer": -1,
    "ps_version": "v2",
    "downsample_ratio": 0.5,
    "force_image_size": SIZE,
    "dynamic_image_size": True,
    "use_thumbnail": True,
    "max_input_tiles": 4,
    "q_max_length": 64,
    "p_max_length": 256,
    "query_prefix": "query:",
    "passage_prefix": "passage:",
    "prompt_template": "v1",
    "template": "bidirectional-llama-retriever",
    "pooling": "avg",
    "temperature": 0.5,
    "bidirectional_attention": True,
    "img_context_token_id": 266,
    "vocab_size": 272,
    "id2label": {"0": "LABEL_0"},
    "label2id": {"LABEL_0": 0},
    "vision_config": VISION,
    "llm_config": LLM,
    "random_weights": True,
}
EMBEDDER: dict[str, Any] = {
    key: value
    for key, value in RERANKER.items()
    if key not in ("prompt_template", "temperature", "id2label", "label2id")
} | {
    "architectures": ["LlamaNemotronVLModel"],
    "model_type": "llama_nemotron_vl",
    "p_max_length": 128,
}
Nesting = Literal["twice", "once"]


def reranker_config(**changes: Any) -> dict[str, Any]:
    """config.json of the reranker; changes named `vision_config` and `llm_config` are of these."""
    return _changed(RERANKER, changes)


def embedder_config(**changes: Any) -> dict[str, Any]:
    """config.json of the embedder."""
    return _changed(EMBEDDER, changes)


def write_vision(
    directory: Path,
    config: dict[str, Any] | None = None,
    *,
    nesting: Nesting = "twice",
    head: bool = True,
    max_length: int = 256,
    seed: int = 0,
) -> Path:
    """A checkpoint in `directory`, by default the reranker; `nesting` says how deep SigLIP's names
    are, `head` whether its unused head is there."""
    config = RERANKER if config is None else config
    special = {"bos_token": BOS, "eos_token": EOS, "pad_token": PAD}
    settings: dict[str, Any] = {"model_max_length": max_length, "padding_side": "left"}
    write_tokenizer(directory, tokenizer(), "PreTrainedTokenizerFast", **special, **settings)
    write_config(directory, config)
    save_file(weights(config, nesting=nesting, head=head, seed=seed), directory / _WEIGHTS)
    return directory


_WEIGHTS = "model.safetensors"


def tokenizer() -> tokenizers.Tokenizer:
    """One token a byte, and special tokens at other numbers than the real ones."""
    alphabet = {letter: i for i, letter in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}
    found = tokenizers.Tokenizer(models.BPE(vocab=alphabet, merges=[]))
    found.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    found.decoder = decoders.ByteLevel()
    found.add_special_tokens([AddedToken(text, normalized=False) for text in _SPECIALS])
    found.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, 256)]
    )
    return found


def weights(
    config: dict[str, Any], *, nesting: Nesting = "twice", head: bool = True, seed: int = 0
) -> dict[str, torch.Tensor]:
    """Tensors in bfloat16 by their names in such a file."""
    generator = torch.Generator().manual_seed(seed)
    ranks = "ForSequenceClassification" in config["architectures"][0]
    prefix = "model." if ranks else ""
    tower = prefix + "vision_model." * (2 if nesting == "twice" else 1)
    found = {}
    shapes = [
        *((tower + name, shape) for name, shape in _siglip(config["vision_config"], head=head)),
        *((prefix + name, shape) for name, shape in _rest(config)),
        *([("score.weight", (1, config["llm_config"]["hidden_size"]))] if ranks else []),
    ]
    for name, shape in shapes:
        noise = torch.randn(shape, generator=generator)
        found[name] = _scaled(name, noise).to(torch.bfloat16)
    return found


def png(width: int, height: int, seed: int = 0) -> bytes:
    """An RGB image of gradients and boxes as of text, the same everywhere."""
    random = np.random.default_rng([width, height, seed])
    x, y = np.linspace(0, 1, width), np.linspace(0, 1, height)[:, None]
    a, b, c = random.uniform(0.2, 1, 3)
    channels = [x * a + 0 * y, y * b + 0 * x, (x + y) / 2 * c]
    pixels = (np.stack(channels, axis=-1) * 255).astype(np.uint8)
    for _ in range(12):
        left, top = random.integers(0, width), random.integers(0, height)
        pixels[top : top + max(1, height // 16), left : left + max(1, width // 5)] = (
            random.integers(0, 256, 3)
        )
    return encoded(Image.fromarray(pixels))


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    """The bytes of a file."""
    file = BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def _changed(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    found = deepcopy(base)
    for key, value in changes.items():
        found[key] = found[key] | value if isinstance(found.get(key), dict) else value
    return {key: value for key, value in found.items() if value is not None}


def _siglip(config: dict[str, Any], *, head: bool) -> Iterator[tuple[str, tuple[int, ...]]]:
    size, inner, patch = config["hidden_size"], config["intermediate_size"], config["patch_size"]
    square, wide = (size, size), (inner, size)
    positions = (config["image_size"] // patch) ** 2
    yield "embeddings.patch_embedding.weight", (size, config["num_channels"], patch, patch)
    yield "embeddings.patch_embedding.bias", (size,)
    yield "embeddings.position_embedding.weight", (positions, size)
    for layer in range(config["num_hidden_layers"]):
        place = f"encoder.layers.{layer}."
        for name in ("layer_norm1", "layer_norm2"):
            yield from _affine(place + name, (size,))
        for name in ("q", "k", "v"):
            yield from _affine(f"{place}self_attn.{name}_proj", square)
        yield from _affine(f"{place}self_attn.out_proj", square)
        yield from _affine(f"{place}mlp.fc1", wide)
        yield from _affine(f"{place}mlp.fc2", (size, inner))
    yield from _affine("post_layernorm", (size,))
    if head:
        yield "head.probe", (1, 1, size)
        yield "head.attention.in_proj_weight", (3 * size, size)
        yield "head.attention.in_proj_bias", (3 * size,)
        yield from _affine("head.attention.out_proj", square)
        yield from _affine("head.layernorm", (size,))
        yield from _affine("head.mlp.fc1", wide)
        yield from _affine("head.mlp.fc2", (size, inner))


def _rest(config: dict[str, Any]) -> Iterator[tuple[str, tuple[int, ...]]]:
    llm, joined = config["llm_config"], 4 * config["vision_config"]["hidden_size"]
    size, inner, head = llm["hidden_size"], llm["intermediate_size"], llm["head_dim"]
    heads, kv_heads = llm["num_attention_heads"] * head, llm["num_key_value_heads"] * head
    yield from _affine("mlp1.0", (joined,))
    yield from _affine("mlp1.1", (size, joined))
    yield from _affine("mlp1.3", (size, size))
    yield "language_model.embed_tokens.weight", (llm["vocab_size"], size)
    for layer in range(llm["num_hidden_layers"]):
        place = f"language_model.layers.{layer}."
        yield f"{place}input_layernorm.weight", (size,)
        yield f"{place}post_attention_layernorm.weight", (size,)
        yield f"{place}self_attn.q_proj.weight", (heads, size)
        yield f"{place}self_attn.k_proj.weight", (kv_heads, size)
        yield f"{place}self_attn.v_proj.weight", (kv_heads, size)
        yield f"{place}self_attn.o_proj.weight", (size, heads)
        yield f"{place}mlp.gate_proj.weight", (inner, size)
        yield f"{place}mlp.up_proj.weight", (inner, size)
        yield f"{place}mlp.down_proj.weight", (size, inner)
    yield "language_model.norm.weight", (size,)


def _affine(name: str, shape: tuple[int, ...]) -> Iterator[tuple[str, tuple[int, ...]]]:
    yield f"{name}.weight", shape
    yield f"{name}.bias", shape[:1]


def _scaled(name: str, noise: torch.Tensor) -> torch.Tensor:
    """Default sizes would hide a lost bias, norm or epsilon."""
    if "post_layernorm" in name:  # so small that the projector's own epsilon counts
        return 0.01 * (1 + 0.2 * noise if name.endswith("weight") else 0.3 * noise)
    if name.endswith("bias"):
        return 0.3 * noise
    if "norm" in name or name.endswith("mlp1.0.weight"):
        return 1 + 0.2 * noise
    if "position_embedding" in name or "embed_tokens" in name:
        return 0.5 * noise
    if name == "score.weight":
        return noise
    return noise / math.sqrt(noise[0].numel())
