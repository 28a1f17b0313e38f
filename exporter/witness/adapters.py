"""The witness of a base with an adapter: peft loads both through transformers.

Loaders read an adapter beside the weights of its base. If the two are in different folders, a
temporary folder links to the files of both, and its adapter_config.json names it as the base.
Nothing is merged here.
"""

import json
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors

from exporter.errors import NoWitness
from exporter.witness.base import refuse_incomplete

_CONFIG = "adapter_config.json"
_WEIGHTS = "adapter_model.safetensors"
_MODULES = "modules.json"
_PREFIX = "base_model.model."
_BASE = ("config.json", "model.safetensors.index.json", "*.safetensors")
_TOKENIZER = tuple(
    """
    tokenizer* vocab.* merges.txt *.model chat_template* special_tokens_map.json added_tokens.json
    """.split()
)


@dataclass(frozen=True)
class Adapted:
    """The folder `base` has config.json and weights, the folder `adapter` peft's two files."""

    base: Path
    adapter: Path


@contextmanager
def together(root: Path, texts: Path, adapted: Adapted) -> Iterator[tuple[Path, Path]]:
    """A temporary folder of links, and the folder in it with weights and adapter, for the block.

    It is `root` with the tokenizer of `texts`, the base's weights and the adapter. Raises NoWitness
    if peft is not installed or the folders cannot be read, and whatever the block raises.
    """
    try:
        import peft  # late import: without it transformers silently loads only the base
    except ImportError as error:
        raise NoWitness(f"peft cannot be imported ({error}); install the extra `export`") from error
    del peft
    with tempfile.TemporaryDirectory() as own, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft's warnings about settings without effect
        made = Path(own) / "together"
        try:
            place = _link_folders(root, texts, adapted, made)
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise NoWitness(
                f"base and adapter cannot be linked into one folder: {error}"
            ) from error
        try:
            yield made, place
        except NoWitness as error:
            shown = f"{adapted.base} with the adapter in {adapted.adapter}"
            message = str(error).replace(str(place), shown).replace(str(made), shown)
            raise NoWitness(message) from error


def apply_adapter(model: Any, directory: Path) -> None:
    """Let peft apply the adapter in `directory`, if there is one, to the layers of `model`.

    Raises NoWitness if any part of the adapter does not fit."""
    if (directory / _CONFIG).is_file():
        found = model.load_adapter(str(directory))
        refuse_incomplete(found.to_dict(), headless=type(model).__name__.endswith("Model"))


def full_tensor_names(directory: Path) -> set[str]:
    """Names of the model's tensors that an adapter in `directory` has as full tensors."""
    path = directory / _WEIGHTS
    if not (directory / _CONFIG).is_file() or not path.is_file():
        return set()
    with safetensors.safe_open(path, framework="pt") as opened:
        return {name.removeprefix(_PREFIX) for name in opened.keys()}  # noqa: SIM118 (it is no dict)


def with_adapter(name: str) -> str:
    """The witness's `name`, with the loader of its adapter."""
    import peft

    return f"{name}, with the adapter by peft {peft.__version__}"


def _link_folders(root: Path, texts: Path, adapted: Adapted, made: Path) -> Path:
    inner = "."
    if (root / _MODULES).is_file():
        inner = os.path.normpath(json.loads((root / _MODULES).read_bytes())[0]["path"])
    _mirror(root, made, Path(inner).parts)
    place = made / inner
    if place.is_symlink() or not place.resolve().is_relative_to(made.resolve()):
        raise ValueError(f"{_MODULES} names {inner[:80]!r}, wanted a folder beside it")
    _replace(_TOKENIZER, texts, place)
    _replace(_BASE, adapted.base, place)
    _replace((_WEIGHTS,), adapted.adapter, place)
    if place != made:  # where transformers looks for a base in a subfolder
        _replace(_BASE[:1], adapted.base, made)
    config = json.loads((adapted.adapter / _CONFIG).read_bytes())
    (place / _CONFIG).write_text(json.dumps(config | {"base_model_name_or_path": str(made)}))
    return place


def _mirror(source: Path, made: Path, inner: tuple[str, ...]) -> None:
    """Make a folder of links to the entries of `source`. Folders on the path to `inner` are made,
    not linked, so that nothing is written through a link."""
    made.mkdir()
    for path in source.iterdir():
        if path.name in inner[:1]:
            _mirror(path, made / path.name, inner[1:])
        elif path.name not in (_CONFIG, _WEIGHTS):
            _link(path, made / path.name)


def _replace(patterns: tuple[str, ...], source: Path, place: Path) -> None:
    """The files of these names, as they are in `source`."""
    for pattern in patterns:
        for old in list(place.glob(pattern)):
            old.unlink()
        for path in source.glob(pattern):
            _link(path, place / path.name)


def _link(source: str | Path, place: str | Path) -> None:
    os.symlink(os.path.abspath(source), place)
