"""The origins of facts that decide a score: the texts of `Manifest.origins`.

An origin is a file with a key, a profile, an option, or the architecture.
"""

from collections.abc import Mapping
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from exporter.adapter import ADAPTER_CONFIG
from exporter.architectures.base import Architecture
from exporter.checkpoint import CONFIG_FILE, Checkpoint
from exporter.embedding_files import ARCHITECTURE
from exporter.errors import CheckpointRefused
from exporter.labels import DIFFERENCE
from exporter.sentence_files import TOKENIZER_CONFIG, model_settings, read_json
from exporter.tokens import TYPES
from runtime.activation import saved_activation

# The keys of config.json for a fact, in different families. A key counts if its architecture read
# it and the file has it.
_KEYS: Mapping[str, tuple[str, ...]] = {
    "pooling": ("pooling", "classifier_pooling"),
    "temperature": ("temperature",),
    "causal": ("is_causal", "use_bidirectional_attention"),
    "dimensions": ("hidden_size",),
    "max_tokens": ("max_position_embeddings",),
}
_TYPED_BY = "model_input_names"


def key_origin(checkpoint: Checkpoint, fact: str) -> str:
    """The key of config.json that decides `fact`, else the architecture."""
    config = checkpoint.config
    asked = frozenset(config.read)  # a copy: reads in this function do not count
    for key in _KEYS[fact]:
        if key in asked and config.get(key) is not None:
            return f"{CONFIG_FILE} ({key})"
    return ARCHITECTURE


def origins_of(
    checkpoint: Checkpoint, model: Architecture, tokenizer: PreTrainedTokenizerBase, profile: str
) -> dict[str, str]:
    """The origins of all facts but profile, prompt and limit, which options may decide. `profile`
    is the name of the profile in use. Raises CheckpointRefused."""
    tokenizer_origin = _tokenizer_origin(checkpoint.directory, tokenizer)
    origins = {
        "causal": key_origin(checkpoint, "causal"),
        "special_tokens": tokenizer_origin,
        "padding_side": f"the profile {profile}",
        "lower_case": checkpoint.texts.lowered_by or tokenizer_origin,
        "token_types": _typed_by(checkpoint, model),
    }
    if checkpoint.vectors is None:
        origins |= {name: key_origin(checkpoint, name) for name in ("pooling", "temperature")}
        if checkpoint.tail is not None:
            origins["pooling"] = checkpoint.tail.pooled_by
        origins["activation"] = _activated_by(checkpoint)
    else:
        origins |= {
            "pooling": checkpoint.vectors.pooled_by,
            "normalize": checkpoint.vectors.normalized_by,
            "dimensions": key_origin(checkpoint, "dimensions"),
        }
        if checkpoint.tail is not None and checkpoint.tail.sized_by:
            origins["dimensions"] = checkpoint.tail.sized_by
    if checkpoint.adapter is not None:
        base = checkpoint.adapter.base or checkpoint.base.name
        origins["merged"] = f"{ADAPTER_CONFIG} (LoRA) and its base {base}"
    return origins


def _tokenizer_origin(directory: Path, tokenizer: PreTrainedTokenizerBase) -> str:
    """The tokenizer's files, with transformers' class, which may add facts of its own."""
    names = ["tokenizer.json"]
    if not (directory / names[0]).is_file():
        names = [n for n in tokenizer.vocab_files_names.values() if (directory / n).is_file()]
    kind = type(tokenizer).__name__
    return f"{' and '.join(names)}, as transformers' {kind} reads it"


def _typed_by(checkpoint: Checkpoint, model: Architecture) -> str:
    if TYPES not in model.inputs:
        return ARCHITECTURE
    settings = read_json(checkpoint.directory / TOKENIZER_CONFIG, dict[str, object], absent={})
    if settings.get(_TYPED_BY) is not None:
        return f"{TOKENIZER_CONFIG} ({_TYPED_BY})"
    return "the tokenizer's class in transformers"


def _activated_by(checkpoint: Checkpoint) -> str:
    if checkpoint.labels.count == 2:
        return f"the softmax of two labels, by {DIFFERENCE}"
    try:
        found = saved_activation(checkpoint.config, model_settings(checkpoint.root) or {})
    except ValueError as error:
        raise CheckpointRefused(str(error)) from None
    return "sentence-transformers' default for one label" if found is None else found[1]
