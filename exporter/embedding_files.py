"""How an embedding checkpoint makes a vector: from config.json, or sentence-transformers' files.

sentence-transformers writes modules.json (the modules in order), 1_Pooling/config.json,
sentence_bert_config.json (maximum length) and config_sentence_transformers.json (prompts); what
stands between its Transformer and its Normalize is read in `exporter.modules`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from exporter.architectures.config import Config
from exporter.architectures.pooling import POOLINGS
from exporter.errors import CheckpointRefused
from exporter.modules import EMBEDDING, Tail, read_tail, refuse_other_steps
from exporter.options import POOLING_OPTION
from exporter.sentence_files import (
    MODEL_FILE,
    MODULES_FILE,
    Module,
    model_settings,
    module_folder,
    read_json,
    read_modules,
    read_prompts,
)

# The origin of a family's default, if no file says otherwise.
ARCHITECTURE = "the architecture"
_MODEL_TYPE = "SentenceTransformer"
_NORMALIZE = "Normalize"
# Only the text's vector may be normalized, in place.
_NORMALIZED: Mapping[str, tuple[object, ...]] = {
    "module_input_name": ("sentence_embedding",),
    "module_output_name": (None, "sentence_embedding"),
}
# sentence-transformers' names of prompts, as input types.
_INPUT_TYPES = {
    "query": "query",
    "document": "passage",
    "passage": "passage",
    "corpus": "passage",
}


@dataclass(frozen=True)
class VectorFacts:
    """How states become a vector, and texts become tokens, as far as the checkpoint says.

    `prefixes` by input type is None if the checkpoint does not say, and empty if it has none.
    `pooled_by` and `normalized_by` are the origins of the other two; `tail` are the modules that
    make the vector, None without modules.json.
    """

    pooling: str
    normalize: bool
    prefixes: dict[str, str] | None
    pooled_by: str = field(default="", compare=False)
    normalized_by: str = field(default="", compare=False)
    tail: Tail | None = field(default=None, compare=False)

    @property
    def requested_pooling(self) -> str | None:
        """The pooling that came from the command line, None if a file names it."""
        return self.pooling if self.pooled_by == POOLING_OPTION else None


def transformer_directory(root: Path) -> Path:
    """The folder of config.json, weights and tokenizer: the one that modules.json names, even if
    `root` has such files as well; else `root`. Raises CheckpointRefused.
    """
    modules = read_modules(root)
    return root if modules is None else module_folder(root, modules[0])


def vector_facts(
    root: Path, config: Config, *, family_pools: bool, requested: str | None = None
) -> VectorFacts:
    """The facts of the embedding checkpoint in `root` with this config.json.

    `family_pools`: config.json names the pooling, and vectors have length 1 unless modules.json
    says otherwise; a Pooling module must agree with it. `requested` is the pooling if no file
    names one. Raises CheckpointRefused.
    """
    if requested is not None and requested not in POOLINGS:
        raise CheckpointRefused(
            f"found {POOLING_OPTION} {requested}, wanted one of: {', '.join(POOLINGS)}"
        )
    family = config.one_of("pooling", POOLINGS, "avg") if family_pools else None
    modules = read_modules(root)
    if modules is None:
        return _without_modules(family, config, requested)
    refuse_other_steps(modules, (_NORMALIZE,))
    normalizes = modules[-1].name == _NORMALIZE
    behind = modules[:-1] if normalizes else modules
    tail = read_tail(root, behind, config.whole("hidden_size"), gives=EMBEDDING)
    found, place = tail.pooling, tail.pooled_by
    if family is not None and tail.steps:
        raise CheckpointRefused(
            f"{MODULES_FILE} has {', '.join(step.kind for step in tail.steps)} behind a family "
            "whose own class has none, and which no loader here can witness; save it as a plain "
            "LlamaModel"
        )
    if family is not None and family != found:
        raise CheckpointRefused(
            f"config.json has pooling = {family!r}, the Pooling module of {MODULES_FILE} says "
            f"{found!r}; keep the one that the model was trained with"
        )
    _refuse_other_pooling(requested, found, place)
    if normalizes:
        _refuse_normalizing(root, modules[-1])
    normalized_by = f"{MODULES_FILE} ({'' if normalizes else 'no '}Normalize)"
    return VectorFacts(found, normalizes, _prefixes(root), place, normalized_by, tail)


def _without_modules(family: str | None, config: Config, requested: str | None) -> VectorFacts:
    """What config.json says, then the option, then the `family`."""
    if family is None:
        if requested is None:
            raise CheckpointRefused(
                f"found no {MODULES_FILE} beside config.json, so nothing says how token states "
                f"become a vector; name it as {POOLING_OPTION}, or save the model with "
                "sentence-transformers (Transformer, Pooling and Normalize), and export that folder"
            )
        normalized_by = f"sentence-transformers' default for a folder without {MODULES_FILE}"
        return VectorFacts(requested, False, None, POOLING_OPTION, normalized_by)
    place, normalized_by = "config.json (pooling)", ARCHITECTURE
    if config.get("pooling") is not None:
        _refuse_other_pooling(requested, family, place)
        return VectorFacts(family, True, None, place, normalized_by)
    if requested is not None:
        return VectorFacts(requested, True, None, POOLING_OPTION, normalized_by)
    return VectorFacts(family, True, None, ARCHITECTURE, normalized_by)


def _refuse_other_pooling(requested: str | None, found: str, place: str) -> None:
    if requested is not None and requested != found:
        raise CheckpointRefused(
            f"found {POOLING_OPTION} {requested}, but {place} says {found}; leave the option out, "
            "or correct the file if the model was trained otherwise"
        )


def _refuse_normalizing(root: Path, module: Module) -> None:
    folder = module_folder(root, module, needed=False)
    config = read_json(folder / "config.json", dict[str, Any], absent={})
    for key, settled in _NORMALIZED.items():
        if key in config and config[key] not in settled:
            raise CheckpointRefused(
                f"{module.path}/config.json has {key} = {config[key]!r}, wanted "
                "sentence_embedding; other vectors than the text's are not made here"
            )


def _prefixes(root: Path) -> dict[str, str] | None:
    """The prompts for queries and passages; callers have no way to request others."""
    config = model_settings(root)
    if config is None:
        return None
    if (model_type := config.get("model_type", _MODEL_TYPE)) != _MODEL_TYPE:
        raise CheckpointRefused(
            f"{MODEL_FILE} has model_type = {model_type!r}, wanted {_MODEL_TYPE}, or no such "
            "key: another kind of model makes other vectors, and cannot be exported"
        )
    if config.get("truncate_dim") is not None:
        raise CheckpointRefused(
            f"{MODEL_FILE} has truncate_dim = {config['truncate_dim']!r}, wanted none: a request "
            "says how many components it wants; leave it out, and ask for them as `dimensions`"
        )
    found = read_prompts(root)
    prompts = {} if found.prompts is msgspec.UNSET else found.prompts
    default = found.default_prompt_name
    says_nothing = default in prompts and not prompts[default]
    if default is not None and default not in _INPUT_TYPES and not says_nothing:
        raise CheckpointRefused(
            f"{MODEL_FILE} has default_prompt_name = {default!r}, wanted none, or one of: "
            f"{', '.join(_INPUT_TYPES)}; a default prompt of another name cannot be served"
        )
    if found.prompts is msgspec.UNSET:
        return None
    prefixes: dict[str, str] = {}
    for name, prompt in prompts.items():
        kind = _INPUT_TYPES.get(name)
        if kind is not None and prompt and prefixes.setdefault(kind, prompt) != prompt:
            raise CheckpointRefused(
                f"{MODEL_FILE} has both {prefixes[kind]!r} and {prompt!r} as the prompt of "
                "passages; keep the one that the model was trained with"
            )
    if not prefixes:
        return {}
    return {kind: prefixes.get(kind, "") for kind in ("query", "passage")}
