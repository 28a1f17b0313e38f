"""A seeded judge of Qwen3-Reranker's shape, in the files that sentence-transformers 6 saves, which
say its prompt and its head to every loader.

The tokenizer is the embedded ranker's with Qwen's special tokens, as no other is here; the prompt
has about as many tokens as by Qwen's own.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer

from checks.exporting import write_checkpoint
from checks.random_weights import QWEN3_SHAPE, random_model

_WORDS = ("yes", "no")
_SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_ADDED = ("<think>", "</think>")
_HEAD = "score.weight"
_ROLE = '{{ (messages | selectattr("role", "eq", "ROLE") | first).content }}'
_MODULES = (
    ("", "sentence_transformers.base.modules.transformer.Transformer"),
    ("1_LogitScore", "sentence_transformers.cross_encoder.modules.logit_score.LogitScore"),
)
_TEXT = {"method": "forward", "method_output_name": "logits"}


def write_judge(
    directory: Path, tokenizer: Path, template: str | None, changes: Mapping[str, Any]
) -> None:
    """Write the checkpoint with the tokenizer of the folder `tokenizer`, and a chat template that
    renders the `template` with {query} and {passage}; `changes` are in config.json."""
    assert template is not None
    shape = QWEN3_SHAPE | dict(changes)
    _, weights = random_model(shape)
    # The head is the table of words: of the classifier's one row nothing is saved.
    tied = {name: weight for name, weight in weights.items() if name != _HEAD}
    config = shape | {"architectures": ["Qwen3ForCausalLM"], "tie_word_embeddings": True}
    del config["num_labels"]
    write_checkpoint(directory, config, tied, tokenizer)
    _write_sentence_files(directory, _write_tokenizer(directory, tokenizer))
    for role, field in (("query", "{query}"), ("document", "{passage}")):
        template = template.replace(field, _ROLE.replace("ROLE", role))
    # Jinja drops a file's last newline.
    (directory / "chat_template.jinja").write_text(f"{template}\n", encoding="utf-8")


def _write_tokenizer(directory: Path, source: Path) -> Tokenizer:
    """Adds nothing to a text, as Qwen's."""
    saved = json.loads((source / "tokenizer.json").read_text(encoding="utf-8"))
    tokenizer = Tokenizer.from_str(json.dumps(saved | {"post_processor": None}))
    tokenizer.add_special_tokens([*_SPECIAL])
    tokenizer.add_tokens([AddedToken(word, normalized=False) for word in _ADDED])
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "model_max_length": 8192,
        "model_input_names": ["input_ids", "attention_mask"],
        "padding_side": "left",
    }
    _write(directory / "tokenizer_config.json", settings)
    (directory / "special_tokens_map.json").unlink(missing_ok=True)
    return tokenizer


def _write_sentence_files(directory: Path, tokenizer: Tokenizer) -> None:
    rows = [
        {"idx": place, "name": str(place), "path": path, "type": kind}
        for place, (path, kind) in enumerate(_MODULES)
    ]
    _write(directory / "modules.json", rows)
    body = {
        "transformer_task": "text-generation",
        "modality_config": {"text": _TEXT, "message": _TEXT | {"format": "flat"}},
        "module_output_name": "causal_logits",
    }
    _write(directory / "sentence_bert_config.json", body)
    facts = {
        "__version__": {"sentence_transformers": "6.2.0"},
        "model_type": "CrossEncoder",
        "prompts": {},
        "default_prompt_name": None,
        "activation_fn": "torch.nn.modules.activation.Sigmoid",
    }
    _write(directory / "config_sentence_transformers.json", facts)
    relevant, other = (tokenizer.token_to_id(word) for word in _WORDS)
    head = {"true_token_id": relevant, "false_token_id": other}
    (directory / "1_LogitScore").mkdir()
    _write(
        directory / "1_LogitScore" / "config.json", head | {"module_input_name": "causal_logits"}
    )


def _write(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")
