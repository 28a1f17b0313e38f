"""The tensors of a checkpoint: their names, types and shapes, known before any is read.

Weights are in model.safetensors, or in the shards that model.safetensors.index.json names. A file
begins with the size of its header, then comes the header in JSON, then the data (the format of the
library safetensors, which checks that a header's tensors fill the file without gap or overlap).
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import torch

from exporter.errors import CheckpointRefused
from exporter.pickles import conversion, pickles
from runtime.hub_cache import hub_name
from runtime.model_files import JSON_BYTES, open_file, read_bounded

WEIGHTS_FILE = "model.safetensors"
INDEX_FILE = "model.safetensors.index.json"

# Of each tensor a header holds some hundred bytes: a shard of ten thousand tensors has a megabyte.
_MOST_HEADER_BYTES = 4 << 20
_LENGTH_BYTES = 8
_FLOATS = ("F64", "F32", "F16", "BF16")
# Constants that older versions of transformers saved beside the weights; recomputed here.
_RECOMPUTED = ("rotary_emb.inv_freq", "embeddings.position_ids")


@dataclass(frozen=True)
class Stored:
    """One tensor of a checkpoint: its file, name and shape."""

    file: Path
    name: str
    shape: tuple[int, ...]

    def read(self) -> torch.Tensor:
        """The tensor, widened or narrowed to float32."""
        # Opened for every tensor: pages of an open mapping count as memory of the process.
        with safetensors.safe_open(self.file, framework="pt") as opened:
            tensor: torch.Tensor = opened.get_tensor(self.name)
            return tensor.to(torch.float32, copy=True)


def stored_tensors(directory: Path) -> dict[str, Stored]:
    """Tensor name → the tensor, of a single or sharded safetensors checkpoint.

    Raises CheckpointRefused for files that cannot be used, and for tensors that are not floats.
    """
    if (directory / WEIGHTS_FILE).is_file():
        return tensors_of(directory / WEIGHTS_FILE)
    if (directory / INDEX_FILE).is_file():
        return _sharded(directory)
    raise _without_weights(directory)


def first(names: Iterable[str], limit: int = 5) -> str:
    """The first of `names`, sorted and joined for a message."""
    listed = sorted(names)
    more = f" and {len(listed) - limit} more" if len(listed) > limit else ""
    return ", ".join(name[:200] for name in listed[:limit]) + more


def _without_weights(directory: Path) -> CheckpointRefused:
    wanted = f"in {directory}, wanted {WEIGHTS_FILE} or {INDEX_FILE}"
    if found := pickles(directory):
        return CheckpointRefused(
            f"found {found[0]} {wanted}; pickled weights can run code when read and are not "
            f"opened: convert to safetensors: {conversion(directory, found)}"
        )
    if shards := sorted(path.name for path in directory.glob("*.safetensors")):
        return CheckpointRefused(
            f"found {shards[0]} {wanted}: without the index nothing says which files are its "
            "shards; copy or download the index too, or rename a single file to "
            f"{WEIGHTS_FILE}"
        )
    if name := hub_name(directory):
        return CheckpointRefused(
            f"found no weights {wanted}; of {name} only safetensors were downloaded: where the hub "
            f"has pickles alone, hf download {name} --local-dir DIR, and export DIR"
        )
    return CheckpointRefused(f"found no weights {wanted}; copy or download them too")


def _sharded(directory: Path) -> dict[str, Stored]:
    """The tensors by the index; each shard must be a file in the checkpoint."""
    shards = _weight_map(directory)
    for shard in shards.values():
        # File names have no lone surrogate and no NUL.
        if Path(shard).name != shard or shard in ("", ".", "..") or not shard.isprintable():
            raise CheckpointRefused(
                f"{INDEX_FILE} names {shard[:80]!r}, wanted the name of a file in the checkpoint"
            )
    held = {shard: tensors_of(directory / shard) for shard in sorted(set(shards.values()))}
    return {name: held[s][name] for name, s in shards.items() if name in held[s]}


def _weight_map(directory: Path) -> dict[str, str]:
    try:
        raw = read_bounded(directory / INDEX_FILE, JSON_BYTES)
        found = json.loads(raw, object_pairs_hook=_distinct)
    except OSError as error:
        raise CheckpointRefused(
            f"cannot read {INDEX_FILE}: {error.strerror}; copy or download it again"
        ) from error
    except (ValueError, RecursionError) as error:
        raise CheckpointRefused(
            f"{INDEX_FILE} cannot be used ({error}); copy or download it again"
        ) from error
    shards = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(shards, dict) or not all(isinstance(s, str) for s in shards.values()):
        raise CheckpointRefused(
            f"{INDEX_FILE} cannot be used (it has no weight_map from names of tensors to names of "
            "files); copy or download it again"
        )
    return shards


def _distinct(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object from its pairs; a duplicate key is refused, as either value could be meant."""
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"it names {name[:80]!r} twice")
        found[name] = value
    return found


def tensors_of(file: Path) -> dict[str, Stored]:
    """Tensor name → the tensor, of one safetensors file; raises as `stored_tensors` does."""
    try:
        _refuse_large_header(file)
        with safetensors.safe_open(file, framework="pt") as opened:
            slices = {
                name: opened.get_slice(name)
                for name in opened.keys()  # noqa: SIM118 (it is no dict)
                if not name.endswith(_RECOMPUTED)
            }
            types = {name: found.get_dtype() for name, found in slices.items()}
            shapes = {name: tuple(found.get_shape()) for name, found in slices.items()}
    except (OSError, safetensors.SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointRefused(
            f"cannot read the weights in {file.name}: {reason}; copy or download it again"
        ) from error
    _refuse_other_types(types)
    return {name: Stored(file, name, shape) for name, shape in shapes.items()}


def _refuse_large_header(file: Path) -> None:
    with open_file(file) as opened:
        length = int.from_bytes(opened.read(_LENGTH_BYTES), "little")
    if length > _MOST_HEADER_BYTES:
        raise OSError(0, f"its header claims {length} bytes, wanted {_MOST_HEADER_BYTES} at most")


def _refuse_other_types(types: Mapping[str, str]) -> None:
    if others := {name: kind for name, kind in types.items() if kind not in _FLOATS}:
        name = min(others)
        raise CheckpointRefused(
            f"found {name[:200]} as {others[name]}, wanted one of: {', '.join(_FLOATS)}; export "
            "the checkpoint that these weights were made from"
        )
