"""A checkpoint's tensors for transformers' from_pretrained, each read when it is asked for.

from_pretrained by the name of a folder maps its files for as long as it reads, and pages of a
mapping count as memory: a checkpoint in bfloat16 then peaks at 1.5 times its float32 weights, one
in float32 at twice.
"""

from dataclasses import dataclass
from pathlib import Path
from types import EllipsisType

import msgspec
import safetensors
import torch

from exporter.errors import NoWitness

_WEIGHTS = "model.safetensors"
_INDEX = "model.safetensors.index.json"


class _Index(msgspec.Struct, frozen=True):
    """model.safetensors.index.json."""

    weight_map: dict[str, str]


@dataclass(frozen=True)
class StoredTensor:
    """One tensor of a file, in float32; transformers reads it as `tensor[...]`."""

    file: Path
    name: str

    def __getitem__(self, whole: EllipsisType) -> torch.Tensor:
        with safetensors.safe_open(self.file, framework="pt") as opened:
            tensor: torch.Tensor = opened.get_tensor(self.name)
            return tensor.to(torch.float32, copy=True)


def stored_tensors(directory: Path) -> dict[str, StoredTensor]:
    """Name → tensor, of one safetensors file or of the shards that an index names.

    Raises NoWitness if neither exists or can be read.
    """
    try:
        if (directory / _WEIGHTS).is_file():
            files = {_WEIGHTS}
        else:
            index = msgspec.json.decode((directory / _INDEX).read_bytes(), type=_Index)
            files = set(index.weight_map.values())
        found: dict[str, StoredTensor] = {}
        for name in sorted(files):
            with safetensors.safe_open(directory / name, framework="pt") as opened:
                found |= {key: StoredTensor(directory / name, key) for key in opened.keys()}  # noqa: SIM118 (it is no dict)
    except (OSError, ValueError, safetensors.SafetensorError, msgspec.MsgspecError) as error:
        raise NoWitness(f"the weights in {directory} cannot be read ({error})") from error
    return found
