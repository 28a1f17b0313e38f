"""Load a checkpoint for training or scoring with PyTorch, and save one that others can load.

Both use transformers. It does not have the llama_bidirec family, so those classes come from
`llama_bidirec.py`, which is copied into every saved checkpoint. Code inside a checkpoint is never
run.
"""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from transformers.modeling_layers import GenericForSequenceClassification
from transformers.utils import logging as transformers_logging

from exporter.architectures import CROSS_ENCODERS
from exporter.checkpoint import Checkpoint, read_checkpoint
from exporter.pad_token import drop_pad
from exporter.tokens import TOKENIZER_FILES, CheckpointTokenizer, load_tokenizer
from exporter.weight_names import KEY_MAPPING
from recipe.errors import BadInput
from recipe.training.llama_bidirec import (
    LlamaBidirectionalConfig,
    LlamaBidirectionalForSequenceClassification,
)

_LLAMA = "LlamaBidirectionalForSequenceClassification"
# Families that read query and passage as one text; in the others the tokenizer joins the pair.
TEMPLATED = frozenset(name for name, kind in CROSS_ENCODERS.items() if kind.templated)
# Vocabulary files of tokenizers without tokenizer.json.
_VOCABULARIES = (
    *("tokenizer.model", "sentencepiece.bpe.model", "spm.model"),
    *("vocab.txt", "vocab.json", "merges.txt"),
)
# Batches are padded to a multiple of this length, the tile size of tensor cores.
_TILE_TOKENS = 8


def read_whole(source: str) -> Checkpoint:
    """The checkpoint `source`, which the recipe trains, scores and exports as one folder.

    Raises BadInput for an adapter, and what `read_checkpoint` raises.
    """
    checkpoint = read_checkpoint(source)
    if checkpoint.adapter is not None:
        raise BadInput(
            f"found an adapter in {checkpoint.adapter.directory}, wanted a checkpoint with all its "
            "weights; merge it with peft (merge_and_unload), or use `rerank-export export` alone"
        )
    return checkpoint


def fixed_pooling(architecture: str) -> str | None:
    """The value of the setting `pooling` that says what the family does; None where it chooses."""
    if architecture == _LLAMA:
        return None
    return "last" if architecture in TEMPLATED else "cls"


def refuse_judge(checkpoint: Checkpoint) -> None:
    """Raise BadInput for a language model that scores by its next token."""
    ranks = CROSS_ENCODERS.get(checkpoint.architecture)
    if ranks is not None and ranks.judges:
        raise BadInput(
            f"found the language model {checkpoint.architecture} in {checkpoint.source}, which "
            "scores by its next token and has no head to train or to score with here; wanted a "
            "reranker with a head of one label. To measure this model, export it with "
            "rerank-export and name the artifact"
        )


class PairBatcher:
    """Turns (query, passage) pairs into padded tensors, with the checkpoint's own tokenizer.

    `template` is None for families whose tokenizer joins the pair (BERT). Pairs longer than
    `max_tokens` are truncated at the end of the passage.
    """

    def __init__(self, checkpoint: Checkpoint, template: str | None, max_tokens: int) -> None:
        loaded = load_tokenizer(
            checkpoint.directory,
            checkpoint.config.get("model_type"),
            lower_case=checkpoint.texts.lower_case,
        )
        dropped = drop_pad(loaded, checkpoint.config["vocab_size"])
        self._tokenizer = CheckpointTokenizer(
            loaded, checkpoint.directory, template, max_tokens, dropped
        )
        self.pad = self._tokenizer.special_tokens(checkpoint.config["vocab_size"]).pad
        self._typed = template is None and checkpoint.config.get("type_vocab_size", 0) > 1

    def __call__(self, pairs: Sequence[tuple[str, str]]) -> dict[str, Tensor]:
        """int64 [pairs, sequence] each: input_ids, attention_mask, token_type_ids if it has any.

        Padding is on the right: transformers reads the first state of BERT's kind, and counts its
        positions from the left.
        """
        rows = [self._tokenizer.encode(*pair)[0] for pair in pairs]
        width = self.width(max(len(row.token_ids) for row in rows))
        padded = partial(_padded, width=width)
        batch = {
            "input_ids": padded((row.token_ids for row in rows), filler=self.pad),
            "attention_mask": padded([1] * len(row.token_ids) for row in rows),
        }
        if self._typed:
            batch["token_type_ids"] = padded(row.type_ids or [] for row in rows)
        return batch

    def lengths(self, pairs: Sequence[tuple[str, str]]) -> list[int]:
        """The tokens of each pair, without padding."""
        return [len(self._tokenizer.encode(*pair)[0].token_ids) for pair in pairs]

    @staticmethod
    def width(longest: int) -> int:
        """The padded length of a batch whose longest row has so many tokens."""
        return -(-longest // _TILE_TOKENS) * _TILE_TOKENS


def load_for_transformers(
    checkpoint: Checkpoint,
    *,
    attention: str | None = None,
    pooling: str | None = None,
    temperature: float | None = None,
) -> PreTrainedModel:
    """The checkpoint's model with float32 weights; `pooling` and `temperature` replace its own.

    `attention` is sdpa or eager, None for transformers' choice. Raises BadInput, also for a
    checkpoint without all of the model's weights, which transformers would draw at random.
    """
    refuse_judge(checkpoint)
    if checkpoint.labels.count != 1:
        raise BadInput(
            f"found {checkpoint.labels.count} labels in {checkpoint.source}, wanted one: a score "
            "is one logit here; export the checkpoint and name the artifact, or start from another"
        )
    options: dict[str, Any] = {
        "dtype": torch.float32,
        "key_mapping": KEY_MAPPING,
        "output_loading_info": True,
    }
    if attention is not None:
        options["attn_implementation"] = attention
    with quiet():
        if checkpoint.architecture == _LLAMA:
            model = _whole(LlamaBidirectionalForSequenceClassification, checkpoint, options)
            model.config.pooling = pooling or model.config.pooling
            model.config.temperature = temperature or model.config.temperature
            return model
        options["trust_remote_code"] = False
        return _whole(AutoModelForSequenceClassification, checkpoint, options)


def pad_as(model: PreTrainedModel, batcher: PairBatcher) -> None:
    """Tell a classifier that reads the last token which one `batcher` pads with.

    transformers finds the last token by it, and refuses batches without. Raises BadInput where rows
    themselves end with it.
    """
    if not isinstance(model, GenericForSequenceClassification):
        return
    row = batcher([("a", "a")])
    if row["input_ids"][0, int(row["attention_mask"].sum()) - 1] == batcher.pad:
        raise BadInput(
            f"found that the tokenizer ends each pair with the token {batcher.pad}, which it also "
            "pads with; transformers cannot tell them apart: set another pad_token in "
            "tokenizer_config.json"
        )
    model.config.pad_token_id = batcher.pad


def save_consolidated(
    model: PreTrainedModel, weights: dict[str, Tensor], base: Checkpoint, directory: Path
) -> None:
    """Write the model with these `weights`, and its tokenizer, into the new `directory`.

    The exporter and transformers can load it. The tokenizer's files are copied from the base.
    """
    directory.mkdir(parents=True)
    if isinstance(model, LlamaBidirectionalForSequenceClassification):
        LlamaBidirectionalConfig.register_for_auto_class("AutoConfig")
        type(model).register_for_auto_class("AutoModelForSequenceClassification")
    with quiet():
        model.save_pretrained(directory, state_dict=weights)
    for name in (*TOKENIZER_FILES, *_VOCABULARIES):
        if (base.directory / name).is_file():
            shutil.copyfile(base.directory / name, directory / name)


def _whole(kind: Any, checkpoint: Checkpoint, options: dict[str, Any]) -> PreTrainedModel:
    """The checkpoint's model of this class. Raises BadInput where weights are missing."""
    model: PreTrainedModel
    model, info = kind.from_pretrained(checkpoint.directory, **options)
    if missing := sorted(info["missing_keys"]):
        raise BadInput(
            f"found no {', '.join(missing[:3])} in {checkpoint.source} ({len(missing)} weights are "
            "missing), wanted all weights of a reranker; name a checkpoint as it was saved after "
            "training"
        )
    return model


def _padded(rows: Iterable[list[int]], *, width: int, filler: int = 0) -> Tensor:
    """int64 [rows, width], padded on the right."""
    return torch.tensor([row + [filler] * (width - len(row)) for row in rows])


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress transformers' progress bars and warnings: the recipe has its own."""
    level = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
