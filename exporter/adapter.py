"""Read a LoRA adapter in the files of peft, and refuse what cannot be merged.

peft, NeMo and sentence-transformers write the same two files: adapter_config.json and
adapter_model.safetensors. Every key of the first is honoured, known to change no score once the
tensors are there, or refused by name. An unknown key is logged.
"""

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from exporter.architectures.config import shown
from exporter.errors import CheckpointRefused
from exporter.nested import nested_checkpoints
from exporter.unread_settings import log_unknown
from exporter.weights import Stored, tensors_of
from runtime.model_files import JSON_BYTES, read_bounded

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
_PICKLED = "adapter_model.bin"
_MERGE = "merge it with peft (merge_and_unload), save the result, and export that"

# peft's own default of r and of lora_alpha, for files that leave them out.
_DEFAULT = 8
# The tensors in the file are all that is merged, whatever these keys say. `fan_in_fan_out` is for
# layers with transposed weights, which no family here has: peft unsets it for others.
_WITHOUT_EFFECT = frozenset(
    """
    auto_mapping corda_config eva_config exclude_modules fan_in_fan_out inference_mode
    layers_pattern layers_to_transform loftq_config lora_dropout lora_ga_config megatron_core
    peft_version qalora_group_size runtime_config target_modules
    """.split()
)
_READ = frozenset(
    "base_model_name_or_path lora_alpha modules_to_save r revision task_type use_rslora".split()
)
# Keys without effect if they are absent or have one of these values. peft accepts null for some
# of them.
_SETTLED: Mapping[str, tuple[object, ...]] = {
    "alora_invocation_tokens": (None,),
    "alpha_pattern": ({},),
    "arrow_config": (None,),
    "bias": ("none",),
    "ensure_weight_tying": (None, False),
    "kasa_config": (None,),
    "layer_replication": (None, []),
    "lora_bias": (None, False),
    "megatron_config": (None,),
    "monteclora_config": (None,),
    "rank_pattern": ({},),
    "target_parameters": (None, []),
    "trainable_token_indices": (None, {}),
    "use_bdlora": (None,),
    "use_dora": (None, False),
    "use_qalora": (None, False),
    "velora_config": (None,),
    # Other initialisations (pissa, olora, corda, loftq) change the base's weights before training.
    "init_lora_weights": (None, True, False, "gaussian", "eva", "orthogonal", "mica"),
}


@dataclass(frozen=True)
class Adapter:
    """An adapter that can be merged.

    `base` is the name of its base, `revision` that base's revision on the hub, `task` peft's
    task_type; each is None if the file lacks it. `scale` multiplies the product of each pair of
    `tensors`, which have this `rank`. `saved` are the modules that it holds as full tensors.
    """

    directory: Path
    base: str | None
    revision: str | None
    task: str | None
    rank: int
    scale: float
    saved: tuple[str, ...]
    tensors: Mapping[str, Stored]


def is_adapter(directory: Path) -> bool:
    """Whether loaders treat `directory` as an adapter."""
    return (directory / ADAPTER_CONFIG).is_file()


def read_adapter(directory: Path, *, strict: bool = False) -> Adapter:
    """Read the adapter in `directory`; log an unknown key, or refuse it if `strict`.

    Raises CheckpointRefused.
    """
    config = _read_config(directory)
    _refuse_keys(directory, config)
    known = {"peft_type", *_READ, *_WITHOUT_EFFECT, *_SETTLED}
    log_unknown(sorted(config.keys() - known), f"key in {ADAPTER_CONFIG}", strict=strict)
    rank = _number(config, "r", "a whole number from 1", least=1)
    if not isinstance(rank, int):
        raise _wrong("r", rank, "a whole number from 1")
    alpha = _number(config, "lora_alpha", "a number from 0", least=0)
    stabilised = config.get("use_rslora")
    if stabilised is not None and not isinstance(stabilised, bool):
        raise _wrong("use_rslora", stabilised, "true or false")
    saved = config.get("modules_to_save")
    names = isinstance(saved, list) and all(isinstance(name, str) and name for name in saved)
    if saved is not None and not names:
        raise _wrong("modules_to_save", saved, "a list of names")
    return Adapter(
        directory=directory,
        base=_name(config, "base_model_name_or_path"),
        revision=_name(config, "revision"),
        task=_name(config, "task_type"),
        rank=rank,
        scale=alpha / (math.sqrt(rank) if stabilised else rank),
        saved=tuple(saved or ()),
        tensors=_tensors(directory),
    )


def _read_config(directory: Path) -> dict[str, Any]:
    path = directory / ADAPTER_CONFIG
    try:
        return msgspec.json.decode(read_bounded(path, JSON_BYTES), type=dict[str, Any])
    except FileNotFoundError:
        where = nested_checkpoints(directory) or "name the directory that its save_pretrained wrote"
        raise CheckpointRefused(
            f"found no {ADAPTER_CONFIG} in {directory}, wanted an adapter of peft; {where}"
        ) from None
    except OSError as error:
        raise CheckpointRefused(
            f"cannot read {path}: {error.strerror}; copy or download the adapter again"
        ) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise CheckpointRefused(
            f"{path} cannot be used ({error}); copy or download the adapter again"
        ) from error


def _refuse_keys(directory: Path, config: Mapping[str, Any]) -> None:
    kind = config.get("peft_type")
    if kind != "LORA":
        raise CheckpointRefused(
            f"found {ADAPTER_CONFIG} in {directory} with peft_type = {shown(kind)}, wanted LORA: "
            f"other adapters are not merged here; {_MERGE}"
        )
    for key, settled in _SETTLED.items():
        if key in config and not any(_same(config[key], one) for one in settled):
            wanted = " or ".join(map(_as_json, settled))
            raise CheckpointRefused(
                f"{ADAPTER_CONFIG} in {directory} has {key} = {shown(config[key])}, wanted "
                f"{wanted}, or no such key: its effect on the scores is not implemented; "
                f"{_MERGE}"
            )


def _same(found: object, wanted: object) -> bool:
    """Compare with types: for Python 1 equals True, in the file they differ."""
    return type(found) is type(wanted) and found == wanted


def _as_json(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _number(config: Mapping[str, Any], key: str, wanted: str, *, least: int) -> int | float:
    found: int | float = config.get(key, _DEFAULT)
    taken = isinstance(found, int | float) and not isinstance(found, bool)
    if not (taken and least <= found <= 1e9):
        raise _wrong(key, found, wanted)
    return found


def _name(config: Mapping[str, Any], key: str) -> str | None:
    found = config.get(key)
    if found is not None and not isinstance(found, str):
        raise _wrong(key, found, "a text")
    return found or None


def _wrong(key: str, found: object, wanted: str) -> CheckpointRefused:
    return CheckpointRefused(
        f"{ADAPTER_CONFIG} has {key} = {shown(found)}, wanted {wanted}; copy or download the "
        "adapter again"
    )


def _tensors(directory: Path) -> dict[str, Stored]:
    path = directory / ADAPTER_WEIGHTS
    if path.is_file():
        return tensors_of(path)
    found = f"found no {ADAPTER_WEIGHTS} beside {ADAPTER_CONFIG} in {directory}"
    if not (directory / _PICKLED).is_file():
        raise CheckpointRefused(
            f"{found}, wanted both; name the directory that peft's save_pretrained wrote"
        )
    raise CheckpointRefused(
        f"{found}, but {_PICKLED}; pickled weights can run code when read and are not opened: "
        f"convert them with {conversion(directory)}"
    )


def conversion(directory: Path) -> str:
    """The command that converts the pickled weights in `directory` to safetensors without running
    code from the pickle."""
    source, made = str(directory / _PICKLED), str(directory / ADAPTER_WEIGHTS)
    code = (
        "import torch, safetensors.torch as s; "
        f"t = torch.load({source!r}, map_location='cpu', weights_only=True); "
        f"s.save_file({{k: v.contiguous() for k, v in t.items()}}, {made!r})"
    )
    return f"python -c {shlex.quote(code)}"
