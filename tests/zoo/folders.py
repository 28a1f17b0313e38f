"""Steps that make one layout of a checkpoint out of another: files, keys, folders."""

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from safetensors.torch import load_file
from tokenizers import Tokenizer

from tests.zoo.weights import Step, drawn, save

# In place of a value: the key goes.
ABSENT: Final = object()
# The tokenizer's files, and those of a body.
_BODY = ("config.json", "adapter_*", "model*.safetensors", "tokenizer*", "special_tokens_map.json")


def read_json(path: Path) -> Any:
    """The content of a file of JSON; {} where there is none."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def write_json(path: Path, content: Any) -> None:
    """A file of JSON; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2), encoding="utf-8")


def edited(name: str, **changes: Any) -> Step:
    """Keys of the JSON file `name` changed, which is made where there is none."""

    def step(directory: Path) -> None:
        content = read_json(directory / name) | changes
        write_json(directory / name, {k: v for k, v in content.items() if v is not ABSENT})

    return step


def config(**changes: Any) -> Step:
    """Keys of config.json changed."""
    return edited("config.json", **changes)


def tokenizer_config(**changes: Any) -> Step:
    """Keys of tokenizer_config.json changed."""
    return edited("tokenizer_config.json", **changes)


def file(name: str, content: str | bytes | Mapping[str, Any] | list[Any]) -> Step:
    """One more file: text, bytes, or JSON."""

    def step(directory: Path) -> None:
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if isinstance(content, bytes):
            path.write_bytes(content)
        elif isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        else:
            write_json(path, content)

    return step


def without(name: str) -> Step:
    """One file less."""

    def step(directory: Path) -> None:
        (directory / name).unlink()

    return step


def inside(folder: str) -> Step:
    """Everything moved into a folder, as trainers leave their checkpoints."""

    def step(directory: Path) -> None:
        paths = list(directory.iterdir())
        (directory / folder).mkdir(parents=True)
        for path in paths:
            shutil.move(path, directory / folder / path.name)

    return step


def body_inside(folder: str) -> Step:
    """Weights, config and tokenizer moved into a folder, which modules.json names."""

    def step(directory: Path) -> None:
        (directory / folder).mkdir()
        for pattern in (*_BODY, "sentence_bert_config.json"):
            for path in directory.glob(pattern):
                shutil.move(path, directory / folder / path.name)
        modules = read_json(directory / "modules.json")
        modules[0]["path"] = folder
        write_json(directory / "modules.json", modules)

    return step


def linked(directory: Path) -> None:
    """Every file a link to one elsewhere."""
    blobs = directory.with_name(f"{directory.name}-blobs")
    blobs.mkdir()
    for path in list(directory.iterdir()):
        shutil.move(path, blobs / path.name)
        path.symlink_to(blobs / path.name)


def write_tokenizer(
    directory: Path, tokenizer: Tokenizer, kind: str, special: Mapping[str, str], **keys: Any
) -> None:
    """tokenizer.json, tokenizer_config.json and special_tokens_map.json."""
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    settings = {"tokenizer_class": kind, "model_max_length": 256, **special, **keys}
    write_json(directory / "tokenizer_config.json", settings)
    write_json(directory / "special_tokens_map.json", special)


def changed_tokenizer(**changes: Any) -> Step:
    """Top-level keys of tokenizer.json changed."""
    return edited("tokenizer.json", **changes)


def extra_token(content: str, *, resized: bool) -> Step:
    """A token added to tokenizer.json, and to the embeddings where `resized`."""

    def step(directory: Path) -> None:
        tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
        tokenizer.add_tokens([content])
        tokenizer.save(str(directory / "tokenizer.json"))
        if resized:
            _resize(directory, tokenizer.get_vocab_size())

    return step


def _resize(directory: Path, rows: int) -> None:
    tensors = load_file(directory / "model.safetensors")
    (name,) = (n for n in tensors if n.endswith(_EMBEDDINGS))
    old = tensors[name]
    wide = drawn(rows, old.shape[1], seed=7) * old.shape[1] ** 0.5
    wide[: len(old)] = old
    save(tensors | {name: wide}, directory / "model.safetensors")
    config(vocab_size=rows)(directory)


_EMBEDDINGS = ("word_embeddings.weight", "embed_tokens.weight", "tok_embeddings.weight")
