"""Seeded random checkpoints of the other encoder families, made like those in tiny_checkpoints."""

from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import (
    AddedToken,
    Regex,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

from tests.tiny_checkpoints import SENTENCES, write_checkpoint, write_tokenizer

_SIZES: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "id2label": {"0": "LABEL_0"},
    "random_weights": True,
}
XLM_ROBERTA = _SIZES | {
    "architectures": ["XLMRobertaForSequenceClassification"],
    "model_type": "xlm-roberta",
    "hidden_act": "gelu",
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
    "bos_token_id": 0,
    "pad_token_id": 1,
    "eos_token_id": 2,
}
# Layers of both kinds, with a window that the tests' texts are longer than.
MODERNBERT = _SIZES | {
    "architectures": ["ModernBertForSequenceClassification"],
    "model_type": "modernbert",
    "hidden_activation": "gelu",
    "max_position_embeddings": 1024,
    "norm_eps": 1e-5,
    "global_attn_every_n_layers": 2,
    "local_attention": 12,
    "global_rope_theta": 160000.0,
    "local_rope_theta": 10000.0,
    "classifier_pooling": "mean",
    "classifier_activation": "gelu",
    "pad_token_id": 0,
    "bos_token_id": 2,
    "cls_token_id": 2,
    "eos_token_id": 3,
    "sep_token_id": 3,
}
# Buckets so few that ordinary texts reach the logarithmic ones.
DEBERTA = _SIZES | {
    "architectures": ["DebertaV2ForSequenceClassification"],
    "model_type": "deberta-v2",
    "hidden_act": "gelu",
    "max_position_embeddings": 256,
    "type_vocab_size": 0,
    "layer_norm_eps": 1e-7,
    "relative_attention": True,
    "max_relative_positions": -1,
    "position_buckets": 16,
    "norm_rel_ebd": "layer_norm",
    "share_att_key": True,
    "pos_att_type": ["p2c", "c2p"],
    "position_biased_input": False,
    "pooler_hidden_act": "gelu",
    "pooler_hidden_size": 64,
    "pad_token_id": 0,
}
_BRACKETS = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}


def write_xlm_roberta(directory: Path, *, seed: int = 0, **changes: Any) -> Path:
    """An XLM-R cross-encoder checkpoint in `directory`; `changes` go into config.json."""
    tokenizer = _xlm_roberta_tokenizer()
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    special |= {"cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>"}
    write_tokenizer(directory, tokenizer, "XLMRobertaTokenizer", **special)
    config = XLM_ROBERTA | {"vocab_size": tokenizer.get_vocab_size()} | changes
    return write_checkpoint(directory, config, seed)


def write_roberta(directory: Path, *, seed: int = 0, **changes: Any) -> Path:
    """A RoBERTa cross-encoder checkpoint in `directory`; `changes` go into config.json."""
    tokenizer = _roberta_tokenizer()
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    special |= {"cls_token": "<s>", "sep_token": "</s>", "mask_token": "<mask>"}
    write_tokenizer(directory, tokenizer, "RobertaTokenizer", **special)
    roberta = {"architectures": ["RobertaForSequenceClassification"], "model_type": "roberta"}
    config = XLM_ROBERTA | roberta | {"vocab_size": tokenizer.get_vocab_size()} | changes
    return write_checkpoint(directory, config, seed)


def write_modernbert(directory: Path, *, seed: int = 0, **changes: Any) -> Path:
    """A ModernBERT cross-encoder checkpoint in `directory`; `changes` go into config.json."""
    tokenizer = _modernbert_tokenizer()
    write_tokenizer(directory, tokenizer, "PreTrainedTokenizerFast", **_BRACKETS)
    config = MODERNBERT | {"vocab_size": tokenizer.get_vocab_size()} | changes
    return write_checkpoint(directory, config, seed)


def write_deberta(directory: Path, *, seed: int = 0, **changes: Any) -> Path:
    """A DeBERTa v3 cross-encoder checkpoint in `directory`; `changes` go into config.json."""
    tokenizer = _deberta_tokenizer()
    write_tokenizer(directory, tokenizer, "DebertaV2Tokenizer", **_BRACKETS)
    config = DEBERTA | {"vocab_size": tokenizer.get_vocab_size()} | changes
    return write_checkpoint(directory, config, seed)


def _unigram(special: list[str], unknown: str) -> models.Unigram:
    """Knows the words of SENTENCES and their characters.

    Not trained: the trainer breaks ties by chance, so each worker would get another checkpoint.
    """
    words = {f"▁{word}" for sentence in SENTENCES for word in sentence.split()}
    letters = {letter for word in words for letter in word}
    scored = [(name, 0.0) for name in special]
    scored += [(word, -4.0) for word in sorted(words - letters)]
    scored += [(letter, -8.0) for letter in sorted(letters)]
    return models.Unigram(scored, unk_id=special.index(unknown))


def _xlm_roberta_tokenizer() -> tokenizers.Tokenizer:
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    tokenizer = tokenizers.Tokenizer(_unigram(special, "<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()]
    )
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    return tokenizer


def _roberta_tokenizer() -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["<s>", "<pad>", "</s>", "<unk>", "<mask>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(
        ("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False
    )
    return tokenizer


def _modernbert_tokenizer() -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=["[PAD]", "[UNK]", "[CLS]", "[SEP]"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    # Takes the blanks before it, as the family's own does.
    tokenizer.add_special_tokens([AddedToken("[MASK]", lstrip=True)])
    tokenizer.post_processor = _bracketed(tokenizer)
    return tokenizer


def _deberta_tokenizer() -> tokenizers.Tokenizer:
    special = ["[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"]
    tokenizer = tokenizers.Tokenizer(_unigram(special, "[UNK]"))
    tokenizer.normalizer = normalizers.Sequence(
        [normalizers.Strip(), normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens(special)
    tokenizer.post_processor = _bracketed(tokenizer)
    return tokenizer


def _bracketed(tokenizer: tokenizers.Tokenizer) -> processors.TemplateProcessing:
    return processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, tokenizer.token_to_id(token)) for token in ("[CLS]", "[SEP]")],
    )
