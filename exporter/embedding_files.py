"""How an embedding checkpoint makes a vector: from config.json, or sentence-transformers' files.

sentence-transformers writes modules.json (the modules in order), 1_Pooling/config.json,
sentence_bert_config.json (maximum length) and config_sentence_transformers.json (prompts).
Transformer, Pooling (mean or cls) and Normalize are known; everything else is refused by name,
because leaving it out would give other vectors.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from exporter.architectures.config import one_of
from exporter.architectures.pooling import POOLINGS
from exporter.errors import CheckpointRefused
from runtime.activation import SENTENCE_FILE
from runtime.model_files import JSON_BYTES, read_bounded

MODULES_FILE = "modules.json"

_KNOWN = ("Transformer", "Pooling", "Normalize")
_POOLINGS = {"mean": "avg", "mean_tokens": "avg", "cls": "cls", "cls_token": "cls"}
# sentence-transformers' names of prompts, as input types.
_INPUT_TYPES = {"query": "query", "passage": "passage", "document": "passage"}

_T = TypeVar("_T")


@dataclass(frozen=True)
class VectorFacts:
    """How states become a vector, and texts become tokens, as far as the checkpoint says.

    `max_tokens` is None where only the weights limit a text; `prefixes` by input type is empty
    where the checkpoint names none.
    """

    pooling: str
    normalize: bool
    max_tokens: int | None
    prefixes: dict[str, str]


class _Module(msgspec.Struct, frozen=True):
    """One entry of modules.json; `type` is the name of a Python class, which is never imported."""

    path: str
    type: str

    @property
    def name(self) -> str:
        known = self.type.startswith("sentence_transformers.")
        return self.type.rpartition(".")[2] if known else self.type


def transformer_directory(root: Path) -> Path:
    """Where config.json, weights and tokenizer lie: `root`, or the folder that modules.json names.

    Raises CheckpointRefused.
    """
    if (root / "config.json").is_file() or not (root / MODULES_FILE).is_file():
        return root
    return _folder(root, _modules(root)[0])


def vector_facts(root: Path, config: Mapping[str, Any], *, family_pools: bool) -> VectorFacts:
    """The facts of the embedding checkpoint in `root` with this config.json.

    `family_pools`: config.json names the pooling and vectors are always normalised; files of
    sentence-transformers beside it may not say otherwise. Raises CheckpointRefused.
    """
    pooling = one_of(config, "pooling", POOLINGS, "avg") if family_pools else None
    if not (root / MODULES_FILE).is_file():
        if pooling is None:
            raise CheckpointRefused(
                f"found no {MODULES_FILE} beside config.json, so nothing says how token states "
                "become a vector; save the model with sentence-transformers (Transformer, Pooling "
                "and Normalize), and export that folder"
            )
        return VectorFacts(pooling, True, None, {})
    modules = _modules(root)
    found = _pooling(root, modules)
    if pooling is not None and pooling != found:
        raise CheckpointRefused(
            f"config.json has pooling = {pooling!r}, the Pooling module of {MODULES_FILE} says "
            f"{found!r}; keep the one that the model was trained with"
        )
    normalize = family_pools or any(module.name == "Normalize" for module in modules)
    directory = transformer_directory(root)
    return VectorFacts(found, normalize, _max_tokens(directory), _prefixes(root))


def _modules(root: Path) -> list[_Module]:
    modules = _read(root / MODULES_FILE, list[_Module])
    names = [module.name for module in modules]
    for name in names:
        if name not in _KNOWN:
            raise CheckpointRefused(
                f"{MODULES_FILE} has the module {name}, wanted only {', '.join(_KNOWN)}; leaving "
                "it out would give other vectors, so this model cannot be exported"
            )
    if names not in ([*_KNOWN], [*_KNOWN[:2]]):
        raise CheckpointRefused(
            f"{MODULES_FILE} has the modules {', '.join(names) or 'none'}, wanted "
            f"{', '.join(_KNOWN)} in this order (the last one may be missing)"
        )
    return modules


def _pooling(root: Path, modules: list[_Module]) -> str:
    path = _folder(root, modules[1]) / "config.json"
    config = _read(path, dict[str, Any])
    named = config.get("pooling_mode")
    if named is None:
        wished = [k.removeprefix("pooling_mode_") for k, v in config.items() if v is True]
        modes = [mode for mode in wished if mode != "include_prompt"]
    else:
        modes = list(named) if isinstance(named, list | tuple) else [named]
    if len(modes) != 1 or modes[0] not in _POOLINGS:
        raise CheckpointRefused(
            f"{path.parent.name}/config.json pools by {', '.join(map(str, modes)) or 'nothing'}, "
            "wanted mean or cls; pooling otherwise would give other vectors"
        )
    if config.get("include_prompt") is False:
        raise CheckpointRefused(
            f"{path.parent.name}/config.json has include_prompt = false (prompts are left out of "
            "the mean), wanted true; this model cannot be exported"
        )
    return _POOLINGS[modes[0]]


def _max_tokens(directory: Path) -> int | None:
    """The maximum length: sentence-transformers writes it here, from version 6 on there."""
    path = directory / "sentence_bert_config.json"
    config = _read(path, dict[str, Any]) if path.is_file() else {}
    if config.get("do_lower_case"):
        raise CheckpointRefused(
            f"{path.name} has do_lower_case = true, wanted false: the tokenizer alone prepares "
            "texts here; set it to false if the tokenizer lowers letters itself"
        )
    found = config.get("max_seq_length")
    if found is None:
        path, key = directory / "tokenizer_config.json", "model_max_length"
        found = _read(path, dict[str, Any]).get(key) if path.is_file() else None
    else:
        key = "max_seq_length"
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, int | float) or found < 1:
        raise CheckpointRefused(f"{path.name} has {key} = {found!r}, wanted a number above 0")
    return int(found)


def sentence_settings(root: Path) -> dict[str, Any]:
    """config_sentence_transformers.json of a reranker or embedder; empty where there is none."""
    path = root / SENTENCE_FILE
    return _read(path, dict[str, Any]) if path.is_file() else {}


def _prefixes(root: Path) -> dict[str, str]:
    """The prompts for queries and passages; other prompts no caller could ask for."""
    path, config = root / SENTENCE_FILE, sentence_settings(root)
    prompts = config.get("prompts") or {}
    if not isinstance(prompts, dict) or not all(isinstance(p, str) for p in prompts.values()):
        raise CheckpointRefused(f"{path.name} has prompts = {prompts!r}, wanted texts by name")
    default = config.get("default_prompt_name")
    if default is not None and default not in _INPUT_TYPES:
        raise CheckpointRefused(
            f"{path.name} has default_prompt_name = {default!r}, wanted none, or one of: "
            f"{', '.join(_INPUT_TYPES)}; a prompt that nobody names cannot be served"
        )
    prefixes: dict[str, str] = {}
    for name, prompt in prompts.items():
        kind = _INPUT_TYPES.get(name)
        if kind is not None and prefixes.setdefault(kind, prompt) != prompt:
            raise CheckpointRefused(
                f"{path.name} has both {prefixes[kind]!r} and {prompt!r} as the prompt of "
                "passages; keep the one that the model was trained with"
            )
    if not any(prefixes.values()):
        return {}
    return {kind: prefixes.get(kind, "") for kind in ("query", "passage")}


def _folder(root: Path, module: _Module) -> Path:
    folder = root / module.path
    if not folder.resolve().is_relative_to(root.resolve()):
        raise CheckpointRefused(
            f"{MODULES_FILE} names {module.path!r}, wanted a folder in the checkpoint"
        )
    return folder


def _read(path: Path, kind: type[_T]) -> _T:
    try:
        return msgspec.json.decode(read_bounded(path, JSON_BYTES), type=kind)
    except OSError as error:
        raise CheckpointRefused(
            f"cannot read {path.name} in {path.parent} ({error.strerror}); copy or download the "
            "checkpoint again"
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointRefused(f"{path} cannot be used: {error}") from error
