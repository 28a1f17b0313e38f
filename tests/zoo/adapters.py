"""LoRA adapters in the files of peft, written by hand."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from tests.zoo.folders import ABSENT, edited, write_json
from tests.zoo.weights import FILE, Step, Tensors, drawn, save

RANK = 4
# The two folders of a base and its adapter.
BASE, ADAPTER = "base", "adapter"
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_BODY = ("config.json", FILE)


def lora(*targets: str, task: str = "SEQ_CLS", **settings: Any) -> Step:
    """An adapter of the layers whose names end with `targets`, beside the base's files."""

    def step(directory: Path) -> None:
        write_lora(directory, directory, targets, task=task, **settings)

    return step


def lora_alone(*targets: str, task: str = "SEQ_CLS") -> Step:
    """An adapter and the tokenizer, without the base, as peft and NeMo save it."""

    def step(directory: Path) -> None:
        write_lora(directory, directory, targets, task=task)
        for name in _BODY:
            (directory / name).unlink()

    return step


def lora_inside(folder: str, *targets: str) -> Step:
    """An adapter in a folder of its own below the base, which no loader of the base reads."""

    def step(directory: Path) -> None:
        (directory / folder).mkdir()
        write_lora(directory, directory / folder, targets)

    return step


def lora_apart(
    *targets: str,
    task: str = "SEQ_CLS",
    whole: Mapping[str, torch.Tensor] | None = None,
    takes_all: bool = False,
    **settings: Any,
) -> Step:
    """The base in one folder and its adapter in another, which holds the tensors `whole` besides.

    With `takes_all` everything but weights and config.json goes with the adapter, as loaders save
    what they trained; without it nothing does. `settings` are those of adapter_config.json.
    """

    def step(directory: Path) -> None:
        paths = list(directory.iterdir())
        for folder in (BASE, ADAPTER):
            (directory / folder).mkdir()
        for path in paths:
            goes = takes_all and path.name not in _BODY
            shutil.move(path, directory / (ADAPTER if goes else BASE) / path.name)
        write_lora(
            directory / BASE,
            directory / ADAPTER,
            targets,
            task=task,
            whole=whole,
            **{"base_model_name_or_path": f"../{BASE}"} | settings,
        )

    return step


def write_lora(
    base: Path,
    directory: Path,
    targets: Sequence[str],
    *,
    task: str = "SEQ_CLS",
    whole: Mapping[str, torch.Tensor] | None = None,
    **settings: Any,
) -> None:
    """The two files, with every key that version 0.21 writes."""
    tensors: Tensors = {f"base_model.model.{n}": t for n, t in (whole or {}).items()}
    for name, weight in load_file(base / FILE).items():
        layer = name.removesuffix(".weight")
        if layer.rpartition(".")[2] in targets and name != layer:
            outputs, inputs = weight.shape
            seed = len(tensors)
            path = f"base_model.model.{layer}"
            down, up = drawn(RANK, inputs, seed=seed), drawn(outputs, RANK, seed=seed)
            if "embedding" in layer:
                down, up = drawn(RANK, outputs, seed=seed), drawn(inputs, RANK, seed=seed)
                tensors |= {f"{path}.lora_embedding_A": down, f"{path}.lora_embedding_B": up}
            else:
                tensors |= {f"{path}.lora_A.weight": down, f"{path}.lora_B.weight": up}
    save(tensors, directory / WEIGHTS)
    content = {
        **_SETTINGS,
        "task_type": task,
        "target_modules": list(targets),
        **settings,
    }
    write_json(directory / CONFIG, {k: v for k, v in content.items() if v is not ABSENT})


def adapter_config(**changes: Any) -> Step:
    """Keys of the adapter's settings changed, in a folder of its own."""
    return edited(f"{ADAPTER}/{CONFIG}", **changes)


def adapter_weights(**changes: Any) -> Step:
    """Tensors of the adapter in a folder of its own: more of them, others, or ABSENT ones."""

    def step(directory: Path) -> None:
        path = directory / ADAPTER / WEIGHTS
        found = load_file(path) | changes
        save({name: t for name, t in found.items() if t is not ABSENT}, path)

    return step


def adapter_cast(dtype: torch.dtype) -> Step:
    """The adapter in a folder of its own, in another dtype."""

    def step(directory: Path) -> None:
        path = directory / ADAPTER / WEIGHTS
        save({name: tensor.to(dtype) for name, tensor in load_file(path).items()}, path)

    return step


def adapter_pickled(directory: Path) -> None:
    """The weights of the adapter in a folder of its own as older versions wrote them."""
    path = directory / ADAPTER / WEIGHTS
    torch.save(load_file(path), path.with_suffix(".bin"))
    path.unlink()


def absolute_base(directory: Path) -> None:
    """The adapter names its base by the whole path."""
    adapter_config(base_model_name_or_path=str(directory / BASE))(directory)


_SETTINGS: Mapping[str, Any] = {
    "alora_invocation_tokens": None,
    "alpha_pattern": {},
    "arrow_config": None,
    "auto_mapping": None,
    "base_model_name_or_path": "./nowhere/base",
    "bias": "none",
    "corda_config": None,
    "ensure_weight_tying": False,
    "eva_config": None,
    "exclude_modules": None,
    "fan_in_fan_out": False,
    "inference_mode": True,
    "init_lora_weights": True,
    "kasa_config": None,
    "layer_replication": None,
    "layers_pattern": None,
    "layers_to_transform": None,
    "loftq_config": {},
    "lora_alpha": 2 * RANK,
    "lora_bias": False,
    "lora_dropout": 0.1,
    "lora_ga_config": None,
    "megatron_config": None,
    "megatron_core": "megatron.core",
    "modules_to_save": None,
    "monteclora_config": None,
    "peft_type": "LORA",
    "peft_version": "0.21.2",
    "qalora_group_size": 16,
    "r": RANK,
    "rank_pattern": {},
    "revision": None,
    "target_parameters": None,
    "trainable_token_indices": None,
    "use_bdlora": None,
    "use_dora": False,
    "use_qalora": False,
    "use_rslora": False,
    "velora_config": None,
}
