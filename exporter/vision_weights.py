"""The weights of a checkpoint that takes images: their plain names, and their sizes."""

from collections.abc import Mapping
from typing import Any

from exporter.architectures.base import Size
from exporter.architectures.nemotron_vl import FusedLlama
from exporter.architectures.siglip import Siglip
from exporter.errors import CheckpointRefused
from exporter.sizes import check_sizes
from exporter.vision_files import within
from exporter.weights import Stored


def plain_vision_names(tensors: Mapping[str, Stored]) -> dict[str, Stored]:
    """The tensors as the architecture calls them: without the prefix of rerankers, SigLIP's names
    behind one `vision_model.` of the one or two, and without its pooling head, which no state
    depends on. Raises CheckpointRefused where two then have one name."""
    found: dict[str, Stored] = {}
    for name, tensor in tensors.items():
        plain = name.removeprefix("model.")
        if plain.startswith(Siglip.prefix):
            inner = plain.removeprefix(Siglip.prefix).removeprefix(Siglip.prefix)
            if inner.startswith("head."):
                continue
            plain = Siglip.prefix + inner
        if plain in found:
            raise CheckpointRefused(
                f"found {name[:200]} and {found[plain].name[:200]}, wanted one of them; export the "
                "checkpoint as it was saved after training"
            )
        found[plain] = tensor
    return found


def check_vision_sizes(
    config: Mapping[str, Any], head: list[Size], weights: Mapping[str, Stored]
) -> None:
    """Compare both parts of config.json with the weights, `head` with what is beside them. Raises
    CheckpointRefused."""
    with within("vision_config"):
        check_sizes(Siglip, (), config["vision_config"], weights)
    with within("llm_config"):
        check_sizes(FusedLlama, head, config["llm_config"], weights)
