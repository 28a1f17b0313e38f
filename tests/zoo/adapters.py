"""LoRA adapters in the files of peft, written by hand."""

from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import load_file

from tests.zoo.folders import write_json
from tests.zoo.weights import FILE, Step, Tensors, drawn, save

_RANK = 4


def lora(*targets: str, task: str = "SEQ_CLS") -> Step:
    """An adapter of the layers whose names end with `targets`, beside the base's files."""

    def step(directory: Path) -> None:
        write_lora(directory, directory, targets, task)

    return step


def lora_alone(*targets: str, task: str = "SEQ_CLS") -> Step:
    """An adapter and the tokenizer, without the base, as peft and NeMo save it."""

    def step(directory: Path) -> None:
        write_lora(directory, directory, targets, task)
        for name in ("config.json", FILE):
            (directory / name).unlink()

    return step


def lora_inside(folder: str, *targets: str) -> Step:
    """An adapter in a folder of its own below the base, which no loader of the base reads."""

    def step(directory: Path) -> None:
        (directory / folder).mkdir()
        write_lora(directory, directory / folder, targets, "SEQ_CLS")

    return step


def write_lora(base: Path, directory: Path, targets: Sequence[str], task: str) -> None:
    tensors: Tensors = {}
    for name, weight in load_file(base / FILE).items():
        layer = name.removesuffix(".weight")
        if layer.rpartition(".")[2] in targets and name != layer:
            outputs, inputs = weight.shape
            seed = len(tensors)
            tensors[f"base_model.model.{layer}.lora_A.weight"] = drawn(_RANK, inputs, seed=seed)
            tensors[f"base_model.model.{layer}.lora_B.weight"] = drawn(outputs, _RANK, seed=seed)
    save(tensors, directory / "adapter_model.safetensors")
    settings = {
        "peft_type": "LORA",
        "task_type": task,
        "base_model_name_or_path": "somebody/base",
        "r": _RANK,
        "lora_alpha": 2 * _RANK,
        "target_modules": list(targets),
        "bias": "none",
        "modules_to_save": None,
    }
    write_json(directory / "adapter_config.json", settings)
