"""Seeded weights for transformers' own classes, and the ways in which a folder may hold them."""

import json
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import load_file, save_file

FILE = "model.safetensors"
INDEX = "model.safetensors.index.json"
_METADATA = {"format": "pt"}

Step = Callable[[Path], None]
Tensors = dict[str, torch.Tensor]


def seeded(class_name: str, config: Mapping[str, Any]) -> Tensors:
    """Weights for transformers' class of this name, by the names that it saves them under.

    Norms are near one, everything else is spread so that scores differ.
    """
    kind: Any = getattr(transformers, class_name)
    with torch.device("meta"):
        model = kind(kind.config_class.from_dict(dict(config)))
    generator = torch.Generator().manual_seed(0)
    return {name: _drawn(name, p.shape, generator) for name, p in model.named_parameters()}


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    """Weights of a linear layer of this shape."""
    return _drawn("", torch.Size(shape), torch.Generator().manual_seed(seed))


def _drawn(name: str, shape: torch.Size, generator: torch.Generator) -> torch.Tensor:
    noise = torch.randn(shape, generator=generator)
    if "norm" in name.lower() and name.endswith("weight"):
        return 1 + 0.1 * noise
    return noise if "embed" in name else noise / math.sqrt(shape[-1])


def save(tensors: Mapping[str, torch.Tensor], path: Path) -> None:
    """As one safetensors file."""
    save_file({name: t.contiguous() for name, t in tensors.items()}, path, metadata=_METADATA)


def cast(dtype: torch.dtype) -> Step:
    """The folder's weights in another dtype, which config.json names."""

    def step(directory: Path) -> None:
        tensors = load_file(directory / FILE)
        save({name: t.to(dtype) for name, t in tensors.items()}, directory / FILE)
        config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
        config["torch_dtype"] = str(dtype).removeprefix("torch.")
        (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")

    return step


def renamed(pattern: str, replacement: str) -> Step:
    """The folder's weights under other names (re.sub)."""

    def step(directory: Path) -> None:
        tensors = load_file(directory / FILE)
        named = {re.sub(pattern, replacement, name): t for name, t in tensors.items()}
        save(named, directory / FILE)

    return step


COMPILED = renamed("^", "_orig_mod.")
UNCOMPILED = renamed(r"_orig_mod\.", "")


def joined(tensors: Mapping[str, torch.Tensor | str]) -> Step:
    """More weights in the folder; a text is the name of one that is there."""

    def step(directory: Path) -> None:
        found = load_file(directory / FILE)
        for name, tensor in tensors.items():
            found[name] = found[tensor].clone() if isinstance(tensor, str) else tensor
        save(found, directory / FILE)

    return step


def dropped(prefix: str) -> Step:
    """The folder's weights without those whose names begin so."""

    def step(directory: Path) -> None:
        found = load_file(directory / FILE)
        save({n: t for n, t in found.items() if not n.startswith(prefix)}, directory / FILE)

    return step


def changed(name: str, change: Callable[[torch.Tensor], torch.Tensor]) -> Step:
    """One of the folder's weights changed."""

    def step(directory: Path) -> None:
        found = load_file(directory / FILE)
        found[name] = change(found[name])
        save(found, directory / FILE)

    return step


def sharded(directory: Path) -> None:
    """Two files and the index that names them."""
    split(directory)
    places = {
        name: path.name
        for path in sorted(directory.glob("model-*.safetensors"))
        for name in load_file(path)
    }
    content = {"metadata": {"total_size": 0}, "weight_map": places}
    (directory / INDEX).write_text(json.dumps(content), encoding="utf-8")


def split(directory: Path) -> None:
    """Two files and no index."""
    tensors = load_file(directory / FILE)
    (directory / FILE).unlink()
    names = sorted(tensors)
    for number, part in enumerate((names[::2], names[1::2]), start=1):
        path = directory / f"model-{number:05}-of-00002.safetensors"
        save({name: tensors[name] for name in part}, path)


def stale_shards(directory: Path) -> None:
    """The one file of a folder beside shards of an older save, with their index."""
    newest = load_file(directory / FILE)
    save({name: torch.zeros_like(t) for name, t in newest.items()}, directory / FILE)
    sharded(directory)
    save(newest, directory / FILE)


def pickled(directory: Path) -> None:
    """pytorch_model.bin alone."""
    torch.save(load_file(directory / FILE), directory / "pytorch_model.bin")
    (directory / FILE).unlink()


def held(directory: Path) -> Tensors:
    """All weights of a folder in float32; the one file goes before shards."""
    single = directory / FILE
    files = [single] if single.is_file() else sorted(directory.glob("model-*.safetensors"))
    return {name: t.float() for file in files for name, t in load_file(file).items()}
