"""Read sentence-transformers' files of a folder as its version 6 does.

modules.json names the modules in order; without it no other file is read. A cross-encoder's files
are read only if config_sentence_transformers.json says that they are a cross-encoder's.
sentence_bert_config.json (earlier names: SETTINGS_FILES) holds the Transformer's settings,
config_sentence_transformers.json the model's. Every key is honoured, known to change no score, or
refused by name; an unknown one is logged (exporter.unread_settings).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import msgspec

from exporter.errors import CheckpointRefused
from runtime.model_files import JSON_BYTES, read_bounded

MODULES_FILE = "modules.json"
MODEL_FILE = "config_sentence_transformers.json"
TOKENIZER_CONFIG = "tokenizer_config.json"
# Every key of MODEL_FILE that is read, or changes no score.
MODEL_SETTINGS = frozenset(
    """
    __version__ activation_fn default_prompt_name keep_in_fp32_modules model_type prompts
    requirements similarity_fn_name truncate_dim
    """.split()
)
# The first one that exists and is not empty counts.
SETTINGS_FILES = tuple(
    f"sentence_{name}_config.json"
    for name in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
_TOKENIZER_LIMITS = ("model_max_length", "max_len")
# Longer limits mean none: transformers writes 10^30 where there is no limit.
_NO_LIMIT = 1_000_000
# What is read of a Transformer: a classifier's logits, states, or logits of the next token.
Use = Literal["rank", "embed", "judge"]
# The values of transformer_task that match each use.
_TASKS: Mapping[Use, tuple[object, ...]] = {
    "rank": ("sequence-classification",),
    "embed": (None, "feature-extraction"),
    "judge": ("text-generation",),
}

_T = TypeVar("_T")


@dataclass(frozen=True)
class TextFacts:
    """How texts become tokens, as far as the folder says: `max_tokens` is None if only the weights
    limit a text; with `lower_case` letters are lowered before the tokenizer.

    `limited_by` and `lowered_by` are the files and keys of these facts, empty if there are none.
    """

    max_tokens: int | None
    lower_case: bool
    limited_by: str = field(default="", compare=False)
    lowered_by: str = field(default="", compare=False)


class Module(msgspec.Struct, frozen=True):
    """One entry of modules.json; `type` is the name of a Python class, which is never imported."""

    path: str
    type: str

    @property
    def name(self) -> str:
        """The class's last name, if it is one of sentence-transformers' own."""
        known = self.type.startswith("sentence_transformers.")
        return self.type.rpartition(".")[2] if known else self.type


class Prompts(msgspec.Struct, frozen=True):
    """What config_sentence_transformers.json puts before texts: by name, or before every text."""

    prompts: dict[str, str | None] | msgspec.UnsetType = msgspec.UNSET
    default_prompt_name: str | None = None


def read_modules(root: Path) -> list[Module] | None:
    """The modules of the folder; None where modules.json is absent. Raises CheckpointRefused."""
    if not (root / MODULES_FILE).is_file():
        return None
    modules = read_json(root / MODULES_FILE, list[Module])
    if not modules:
        raise CheckpointRefused(
            f"{MODULES_FILE} has no module, wanted a Transformer at least; save the model with "
            "sentence-transformers again"
        )
    return modules


def module_folder(root: Path, module: Module, *, needed: bool = True) -> Path:
    """The folder of the module's files; if not `needed`, it may be absent.

    Raises CheckpointRefused for a path that is not a folder in `root`.
    """
    folder = root / module.path
    try:
        inside = folder.resolve().is_relative_to(root.resolve())
        fits = inside and (folder.is_dir() or not (needed or folder.exists()))
    except (OSError, ValueError):  # not a valid path
        fits = False
    if not fits:
        raise CheckpointRefused(
            f"{MODULES_FILE} names {module.path[:80]!r}, wanted a folder in the checkpoint; copy "
            "or download all of its folders, or correct the path"
        )
    return folder


def text_facts(root: Path, directory: Path, use: Use, *, templated: bool = False) -> TextFacts:
    """The limit and the lower-casing of the folder `root`, whose tokenizer is in `directory`.

    `templated` is true for cross-encoders that read query and passage as one text, which a chat
    template may join. Raises CheckpointRefused.
    """
    tokenizer = read_json(directory / TOKENIZER_CONFIG, dict[str, Any], absent={})
    settings: dict[str, Any] = {}
    name = SETTINGS_FILES[0]
    if (root / MODULES_FILE).is_file() and (use == "embed" or is_cross_encoder(root)):
        modules = read_modules(root) or []
        name, settings = transformer_settings(module_folder(root, modules[0]))
        chat = tokenizer.get("chat_template") is not None or any(directory.glob("*chat_template*"))
        rendered = chat and not templated
        _refuse_settings(name, settings, use, rendered=rendered)
    key, lowering = "max_seq_length", "do_lower_case"
    limit, place = _limit(name, key, settings.get(key)), f"{name} ({key})"
    if limit is None:
        limit, place = tokenizer_limit(directory)
    lowers = bool(settings.get(lowering))
    return TextFacts(
        limit,
        lowers,
        limited_by="" if limit is None else place,
        lowered_by=f"{name} ({lowering})" if lowers else "",
    )


def tokenizer_limit(directory: Path) -> tuple[int | None, str]:
    """The longest row by tokenizer_config.json, and the place that says it. Raises
    CheckpointRefused."""
    found = read_json(directory / TOKENIZER_CONFIG, dict[str, Any], absent={})
    # transformers' older name counts where the newer one is absent, be it null.
    key = next(filter(found.__contains__, _TOKENIZER_LIMITS), _TOKENIZER_LIMITS[0])
    return _limit(TOKENIZER_CONFIG, key, found.get(key)), f"{TOKENIZER_CONFIG} ({key})"


def is_cross_encoder(root: Path) -> bool:
    """Whether sentence-transformers reads the folder as a CrossEncoder. Raises
    CheckpointRefused."""
    return (model_settings(root) or {}).get("model_type") == "CrossEncoder"


def model_settings(root: Path) -> dict[str, Any] | None:
    """config_sentence_transformers.json; None if it or modules.json is absent.

    Raises CheckpointRefused.
    """
    if not (root / MODULES_FILE).is_file() or not (root / MODEL_FILE).is_file():
        return None
    return read_json(root / MODEL_FILE, dict[str, Any])


def read_prompts(root: Path) -> Prompts:
    """The prompts of the folder. Raises CheckpointRefused."""
    if model_settings(root) is None:
        return Prompts()
    return read_json(root / MODEL_FILE, Prompts)


def default_prompt(root: Path) -> str:
    """What the folder puts before every text unless it is told otherwise; empty without one.
    Raises CheckpointRefused."""
    found = read_prompts(root)
    if found.default_prompt_name is None or found.prompts is msgspec.UNSET:
        return ""
    return found.prompts.get(found.default_prompt_name) or ""


def read_json(path: Path, kind: type[_T], absent: _T | None = None) -> _T:
    """The JSON in `path`; `absent` if there is no such file. Raises CheckpointRefused."""
    try:
        return msgspec.json.decode(read_bounded(path, JSON_BYTES), type=kind)
    except OSError as error:
        if absent is not None and isinstance(error, FileNotFoundError):
            return absent
        raise CheckpointRefused(
            f"cannot read {path.name} in {path.parent} ({error.strerror}), which "
            "sentence-transformers needs; copy or download the checkpoint again"
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointRefused(
            f"{path} cannot be used ({error}); save, copy or download it again"
        ) from error


def transformer_settings(directory: Path) -> tuple[str, dict[str, Any]]:
    """The name and the content of the file that counts. Raises CheckpointRefused."""
    for name in SETTINGS_FILES:
        if found := read_json(directory / name, dict[str, Any], absent={}):
            return name, found
    return SETTINGS_FILES[0], {}


# Keys of the Transformer's settings that may change its input, with the values that do not.
_SETTLED: Mapping[str, tuple[object, ...]] = {
    "query_length": (None,),
    "document_length": (None,),
    "query_expansion": (None,),
    "processing_kwargs": (None, {}),
    "tokenizer_name_or_path": (None,),
}
# Arguments of transformers' from_pretrained, and those of them without effect in float32.
_ARGUMENTS = (
    "model_args model_kwargs tokenizer_args processor_kwargs config_args config_kwargs"
).split()
_HARMLESS = frozenset(
    "trust_remote_code torch_dtype dtype attn_implementation add_pooling_layer".split()
)
# The output of a Transformer that version 6 uses, and its own name for it.
_OUTPUTS: Mapping[Use, tuple[str, str]] = {
    "rank": ("logits", "scores"),
    "judge": ("logits", "causal_logits"),
    "embed": ("last_hidden_state", "token_embeddings"),
}
# Every key that is read here, or changes no score.
SETTINGS = {*_SETTLED, *_ARGUMENTS} | set(
    """
    do_lower_case max_seq_length modality_config module_output_name transformer_task unpad_inputs
    """.split()
)


def _refuse_settings(name: str, settings: Mapping[str, Any], use: Use, *, rendered: bool) -> None:
    """`rendered`: a Transformer that takes messages renders every text by a chat template."""
    output, module = _OUTPUTS[use]
    text = {"method": "forward", "method_output_name": output}
    modalities: list[object] = [None, {"text": text}]
    if not rendered:
        forms = ("flat", "structured", "auto")
        modalities += [{"text": text, "message": text | {"format": form}} for form in forms]
    wanted = {
        **_SETTLED,
        "transformer_task": _TASKS[use],
        "module_output_name": (None, module),
        "modality_config": modalities,
    }
    fitting = {key: settings.get(key) in settled for key, settled in wanted.items()}
    fitting |= {key: _is_harmless(settings.get(key)) for key in _ARGUMENTS}
    for key, fits in fitting.items():
        if not fits and key not in settings:
            raise CheckpointRefused(
                f"{name} has no {key}, wanted {wanted[key][0]!r}: without it sentence-transformers "
                "loads no classifier; save the model with sentence-transformers again"
            )
        if not fits:
            raise CheckpointRefused(
                f"{name} has {key} = {settings[key]!r}, which changes what the model is fed; "
                "the exporter does not implement it: export a checkpoint without it"
            )


def _is_harmless(arguments: object) -> bool:
    return arguments is None or (isinstance(arguments, dict) and arguments.keys() <= _HARMLESS)


def _limit(name: str, key: str, found: object) -> int | None:
    if found is None:
        return None
    if isinstance(found, bool) or not isinstance(found, int | float) or not found >= 1:
        raise CheckpointRefused(
            f"{name} has {key} = {repr(found)[:80]}, wanted a number above 0; name the length that "
            "the model was trained with, or null for none"
        )
    return None if found >= _NO_LIMIT else int(found)
