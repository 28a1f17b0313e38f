"""The checkpoints as torch models, and how rows of uneven length run through them.

The classes are the recipe's. config.json and the tokenizer's settings in rank/ and embed/ were
written by hand; a new training keeps them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from recipe.training.llama_bidirec import (
    LlamaBidirectionalConfig,
    LlamaBidirectionalForSequenceClassification,
    LlamaBidirectionalModel,
)

HIDDEN = 128
KEPT = ("config.json", "special_tokens_map.json", "tokenizer_config.json")
_HERE = Path(__file__).parent
_PAD = 1
_PARTS = 4
_BATCH_TOKENS = 4096


def new_ranker() -> LlamaBidirectionalForSequenceClassification:
    """A ranker with random weights; parameter names are those of the checkpoint."""
    config = LlamaBidirectionalConfig.from_pretrained(_HERE / "rank")
    return LlamaBidirectionalForSequenceClassification(config)


def new_embedder() -> LlamaBidirectionalModel:
    """An embedder with random weights; parameter names are those of the checkpoint."""
    return LlamaBidirectionalModel(LlamaBidirectionalConfig.from_pretrained(_HERE / "embed"))


def logits(ranker: Any, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """[rows, tokens] int64, twice -> logits [rows] float32 (the temperature is 1)."""
    return ranker(input_ids, attention_mask).logits.squeeze(-1)


def mean_states(model: Any, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
    """[rows, tokens] int64, twice -> the mean of the last states [rows, d] float32, not unit."""
    states = model(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state.float()
    mask = attention_mask[..., None].float()
    return (states * mask).sum(1) / mask.sum(1)


def run(compute: Callable[[Tensor, Tensor], Tensor], rows: Sequence[np.ndarray]) -> Tensor:
    """``compute(input_ids, attention_mask)`` of the rows of token ids, in their order.

    Rows of similar length run together, padded on the left, to save padding.
    """
    order = np.argsort([len(row) for row in rows], kind="stable")
    parts = []
    for part in np.array_split(order, min(_PARTS, len(rows))):
        ids = [torch.from_numpy(rows[index]) for index in part]
        ones = [torch.ones_like(row) for row in ids]
        parts.append(
            compute(
                pad_sequence(ids, True, _PAD, padding_side="left"),
                pad_sequence(ones, True, 0, padding_side="left"),
            )
        )
    return torch.cat(parts)[torch.from_numpy(np.argsort(order))]


@torch.inference_mode()
def embed(model: Any, tokenizer: Any, texts: Sequence[str], max_tokens: int) -> np.ndarray:
    """Unit vectors [texts, d] float32 of a transformers model and its tokenizer."""
    encoded = tokenizer(list(texts), truncation=True, max_length=max_tokens)["input_ids"]
    order = sorted(range(len(encoded)), key=lambda index: len(encoded[index]))
    vectors = np.empty((len(encoded), model.config.hidden_size), dtype=np.float32)
    while order:
        count = max(1, _BATCH_TOKENS // len(encoded[order[-1]]))
        part, order = order[-count:], order[:-count]
        batch = tokenizer.pad({"input_ids": [encoded[i] for i in part]}, return_tensors="pt")
        means = mean_states(model, batch["input_ids"], batch["attention_mask"])
        vectors[part] = torch.nn.functional.normalize(means, dim=-1).numpy()
    return vectors


def save(weights: dict[str, Tensor], tokenizer: Tokenizer, kind: str, folder: Path) -> None:
    """Write a checkpoint of the ``kind`` rank or embed into an existing folder (float32)."""
    for name in KEPT:
        shutil.copyfile(_HERE / kind / name, folder / name)
    tokenizer.save(str(folder / "tokenizer.json"))
    file = folder / "model.safetensors"
    save_file({n: w.detach().contiguous() for n, w in weights.items()}, file, {"format": "pt"})
    file.chmod(0o644)  # safetensors makes it readable by its owner only
