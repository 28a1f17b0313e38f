"""Seeded random checkpoints of the real architectures, made in well under a second each.

Weights come from our own modules (parameter names are the checkpoints'), the tokenizer is trained
on the spot; transformers is asked for nothing, so that tests may compare with it.
"""

from pathlib import Path
from typing import Any

import msgspec
import tokenizers
import torch
from safetensors.torch import save_file
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

from exporter.architectures import BODIES, CROSS_ENCODERS
from exporter.architectures.config import Config

BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"
SENTENCES = (
    "question:what is machine learning \n \n passage:Machine learning is a subset of AI",
    "The weather is nice today, said the farmer, and went to look after the sheep.",
    "Deep learning uses neural networks with many layers of weights.",
    "Thủ đô của Việt Nam là thành phố Hà Nội. 北京是中国的首都。",
)

LLAMA: dict[str, Any] = {
    "architectures": ["LlamaBidirectionalForSequenceClassification"],
    "model_type": "llama_bidirec",
    "hidden_act": "silu",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 1024,
    "pooling": "avg",
    "temperature": 1.0,
    "id2label": {"0": "LABEL_0"},
    "rope_theta": 500000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 32.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    "random_weights": True,
}
BERT: dict[str, Any] = {
    "architectures": ["BertForSequenceClassification"],
    "model_type": "bert",
    "hidden_act": "gelu",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "layer_norm_eps": 1e-12,
    "id2label": {"0": "LABEL_0"},
    "random_weights": True,
}


def write_llama(directory: Path, *, seed: int = 0, **changes: Any) -> Path:
    """A bidirectional Llama checkpoint in `directory`; `changes` go into config.json."""
    tokenizer = _llama_tokenizer()
    config = LLAMA | {"vocab_size": tokenizer.get_vocab_size()} | changes
    special = {"bos_token": BOS, "eos_token": EOS, "pad_token": EOS}
    write_tokenizer(directory, tokenizer, "PreTrainedTokenizerFast", **special)
    return write_checkpoint(directory, config, seed)


def write_bert(directory: Path, *, seed: int = 0, **changes: Any) -> Path:
    """A BERT cross-encoder checkpoint in `directory`; `changes` go into config.json."""
    tokenizer = _bert_tokenizer()
    config = BERT | {"vocab_size": tokenizer.get_vocab_size()} | changes
    special = {"cls_token": "[CLS]", "sep_token": "[SEP]", "pad_token": "[PAD]"}
    write_tokenizer(directory, tokenizer, "BertTokenizer", **special)
    return write_checkpoint(directory, config, seed)


def write_llama_embedder(directory: Path, *, seed: int = 0, **changes: Any) -> Path:
    """A bidirectional Llama without a head, as llama-nemotron's embedders are saved."""
    return write_llama(
        directory, seed=seed, **{"architectures": ["LlamaBidirectionalModel"]} | changes
    )


def write_sentence_transformers(
    directory: Path,
    *,
    pooling: str = "mean",
    normalize: bool = True,
    prompts: dict[str, str] | None = None,
    seed: int = 0,
    **changes: Any,
) -> Path:
    """A BERT in sentence-transformers' layout; `pooling` is its name for one ("mean", "cls")."""
    write_bert(directory, seed=seed, **{"architectures": ["BertModel"]} | changes)
    types = ["Transformer", "Pooling", "Normalize"][: 3 if normalize else 2]
    modules = [
        {
            "idx": i,
            "name": str(i),
            "path": f"{i}_{t}" if i else "",
            "type": f"sentence_transformers.models.{t}",
        }
        for i, t in enumerate(types)
    ]
    modes = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean"}
    (directory / "1_Pooling").mkdir()
    for name, content in (
        ("modules.json", modules),
        (
            "1_Pooling/config.json",
            {"word_embedding_dimension": BERT["hidden_size"]}
            | {mode: pooling == word for mode, word in modes.items()},
        ),
        ("sentence_bert_config.json", {"max_seq_length": 256, "do_lower_case": False}),
        ("config_sentence_transformers.json", {"prompts": prompts or {}}),
    ):
        (directory / name).write_bytes(msgspec.json.encode(content))
    return directory


def write_config(directory: Path, config: dict[str, Any]) -> None:
    """config.json, readable by people."""
    text = msgspec.json.format(msgspec.json.encode(config), indent=2)
    (directory / "config.json").write_bytes(text)


def random_weights(config: dict[str, Any], seed: int) -> dict[str, torch.Tensor]:
    """Weights for `config`: norms near one, everything else spread so that scores differ."""
    generator = torch.Generator().manual_seed(seed)
    (name,) = config["architectures"]
    model = (CROSS_ENCODERS | BODIES)[name](Config(config))
    weights = {}
    for name, parameter in model.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator)
        norm = "norm" in name.lower() and name.endswith("weight")
        fan_in = 1 if "embed" in name else parameter.shape[-1]
        weights[name] = 1 + 0.1 * noise if norm else noise / fan_in**0.5
    return weights


def write_checkpoint(directory: Path, config: dict[str, Any], seed: int) -> Path:
    write_config(directory, config)
    save_file(random_weights(config, seed), directory / "model.safetensors")
    return directory


def write_tokenizer(
    directory: Path, tokenizer: tokenizers.Tokenizer, kind: str, **special: str
) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {"tokenizer_class": kind, "model_max_length": int(1e30)} | special
    (directory / "tokenizer_config.json").write_bytes(msgspec.json.encode(settings))
    (directory / "special_tokens_map.json").write_bytes(msgspec.json.encode(special))


def _llama_tokenizer() -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=[BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    bos = tokenizer.token_to_id(BOS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B", special_tokens=[(BOS, bos)]
    )
    return tokenizer


def _bert_tokenizer() -> tokenizers.Tokenizer:
    """Knows the words of SENTENCES and their characters.

    Not trained: the trainer breaks ties by chance, so each worker would get another checkpoint.
    """
    normalizer, splitter = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    split = [splitter.pre_tokenize_str(normalizer.normalize_str(text)) for text in SENTENCES]
    words = {word for text in split for word, _ in text}
    letters = {letter for word in words for letter in word}
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *sorted(words | letters)]
    pieces += [f"##{letter}" for letter in sorted(letters)]
    vocabulary = {piece: number for number, piece in enumerate(pieces)}
    tokenizer = tokenizers.Tokenizer(models.WordPiece(vocab=vocabulary, unk_token="[UNK]"))
    tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = splitter
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.add_special_tokens(pieces[:5])
    cls, sep = vocabulary["[CLS]"], vocabulary["[SEP]"]
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", sep), ("[CLS]", cls))
    return tokenizer
