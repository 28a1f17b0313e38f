"""The files that sentence-transformers writes beside a body, in the styles of its versions."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch

from tests.zoo.folders import write_json
from tests.zoo.weights import Step, drawn, save

# 3 stands for 2 to 4: nothing that is read changed between them.
Style = Literal[3, 5, 6]
_NEW_CLASSES = {
    "Transformer": "sentence_transformers.base.modules.transformer.Transformer",
    "Pooling": "sentence_transformers.sentence_transformer.modules.pooling.Pooling",
    "Normalize": "sentence_transformers.base.modules.normalize.Normalize",
    "Dense": "sentence_transformers.base.modules.dense.Dense",
    "LogitScore": "sentence_transformers.cross_encoder.modules.logit_score.LogitScore",
    "LayerNorm": "sentence_transformers.sentence_transformer.modules.layer_norm.LayerNorm",
}
_OLD_MODES = {
    "cls": "cls_token",
    "mean": "mean_tokens",
    "max": "max_tokens",
    "lasttoken": "lasttoken",
}
MEAN = ("Transformer", "Pooling", "Normalize")


def embedder(
    style: Style = 3,
    *,
    modules: Sequence[str] = MEAN,
    pooling: str | list[str] = "mean",
    hidden: int = 32,
    max_seq_length: int | None = None,
    **settings: Any,
) -> Step:
    """A SentenceTransformer's files; `settings` go into config_sentence_transformers.json."""

    def step(directory: Path) -> None:
        write_modules(directory, modules, style)
        modes = [pooling] if isinstance(pooling, str) else pooling
        if style == 6:
            mode = {"embedding_dimension": hidden, "pooling_mode": pooling, "include_prompt": True}
        else:
            named = {f"pooling_mode_{v}": k in modes for k, v in _OLD_MODES.items()}
            mode = {"word_embedding_dimension": hidden, **named, "include_prompt": True}
        write_json(directory / "1_Pooling/config.json", mode)
        body: dict[str, Any] = {"max_seq_length": max_seq_length, "do_lower_case": False}
        if style == 6:
            text = {"method": "forward", "method_output_name": "last_hidden_state"}
            body = {
                "transformer_task": "feature-extraction",
                "modality_config": {"text": text},
                "module_output_name": "token_embeddings",
            }
        write_json(directory / "sentence_bert_config.json", body)
        _write_settings(directory, style, "SentenceTransformer", settings)

    return step


def cross_encoder(*, modules: Sequence[str] = ("Transformer",), **settings: Any) -> Step:
    """A CrossEncoder's files in the style of version 6, the first that writes any."""

    def step(directory: Path) -> None:
        write_modules(directory, modules, 6)
        text = {"method": "forward", "method_output_name": "logits"}
        body = {
            "transformer_task": "sequence-classification",
            "modality_config": {"text": text},
            "module_output_name": "scores",
        }
        write_json(directory / "sentence_bert_config.json", body)
        activation = {"activation_fn": "torch.nn.modules.activation.Sigmoid"}
        _write_settings(directory, 6, "CrossEncoder", activation | settings)

    return step


def judge(yes: int | None, no: int | None, *, chat: bool = True, **settings: Any) -> Step:
    """The files of a CrossEncoder of version 6 that scores by a language model's next token."""

    def step(directory: Path) -> None:
        cross_encoder(modules=("Transformer", "LogitScore"), **settings)(directory)
        text = {"method": "forward", "method_output_name": "logits"}
        body = {
            "transformer_task": "text-generation",
            "modality_config": messages("logits") if chat else {"text": text},
            "module_output_name": "causal_logits",
        }
        write_json(directory / "sentence_bert_config.json", body)
        head = {"true_token_id": yes, "false_token_id": no, "module_input_name": "causal_logits"}
        write_json(directory / "1_LogitScore/config.json", head)

    return step


def messages(output: str) -> dict[str, Any]:
    """The modalities that version 6 writes where the tokenizer has a chat template."""
    text = {"method": "forward", "method_output_name": output}
    return {"text": text, "message": text | {"format": "flat"}}


def dense(folder: str, inputs: int, outputs: int, **settings: Any) -> Step:
    """The folder of a Dense module."""

    def step(directory: Path) -> None:
        content = {
            "in_features": inputs,
            "out_features": outputs,
            "bias": True,
            "activation_function": "torch.nn.modules.linear.Identity",
            **settings,
        }
        write_json(directory / folder / "config.json", content)
        tensors = {
            "linear.weight": -2 * drawn(outputs, inputs, seed=3).abs(),
            "linear.bias": torch.full((outputs,), 0.5),
        }
        if not content["bias"]:
            del tensors["linear.bias"]
        save(tensors, directory / folder / "model.safetensors")

    return step


def layer_norm(folder: str, size: int) -> Step:
    """The folder of a LayerNorm module."""

    def step(directory: Path) -> None:
        write_json(directory / folder / "config.json", {"dimension": size})
        tensors = {
            "norm.weight": 1 + drawn(size, 1).squeeze(),
            "norm.bias": drawn(size, 1).squeeze(),
        }
        save(tensors, directory / folder / "model.safetensors")

    return step


def modular(*modules: str, pooling: str = "cls", **settings: Any) -> Step:
    """The files of a CrossEncoder of version 6 whose score the `modules` behind Pooling make."""

    def step(directory: Path) -> None:
        names = ("Transformer", "Pooling", *modules)
        embedder(6, modules=names, pooling=pooling)(directory)
        activation = {"activation_fn": "torch.nn.modules.linear.Identity"}
        _write_settings(directory, 6, "CrossEncoder", activation | settings)

    return step


def write_modules(directory: Path, modules: Sequence[str], style: Style) -> None:
    """modules.json: the first module is beside it, others in folders of their own."""
    rows = [
        {
            "idx": index,
            "name": str(index),
            "path": f"{index}_{name}" if index else "",
            "type": _NEW_CLASSES[name] if style == 6 else f"sentence_transformers.models.{name}",
        }
        for index, name in enumerate(modules)
    ]
    write_json(directory / "modules.json", rows)


def _write_settings(directory: Path, style: Style, kind: str, settings: dict[str, Any]) -> None:
    version = {3: "3.4.1", 5: "5.1.2", 6: "6.2.0"}[style]
    prompts = {"query": "", "document": ""} if style > 3 else {}
    content = {
        "__version__": {"sentence_transformers": version},
        **({"model_type": kind} if style > 3 else {}),
        "prompts": prompts if kind == "SentenceTransformer" else {},
        "default_prompt_name": None,
        **settings,
    }
    write_json(directory / "config_sentence_transformers.json", content)
