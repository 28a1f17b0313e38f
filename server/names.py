"""The model names that a NIM client may use for a served model."""

import re
from collections.abc import Iterator, Mapping

from runtime.profile import Kind

# NVIDIA renamed its models; clients, charts and blueprints hold names of both generations.
NIM_IDS: Mapping[Kind, tuple[str, ...]] = {
    "rank": (
        "nvidia/llama-3.2-nv-rerankqa-1b-v2",
        "nvidia/llama-nemotron-rerank-1b-v2",
        "nvidia/llama-3.2-nemoretriever-500m-rerank-v2",
        "nvidia/llama-nemotron-rerank-500m-v2",
    ),
    "embed": (
        "nvidia/llama-3.2-nv-embedqa-1b-v2",
        "nvidia/llama-nemotron-embed-1b-v2",
        "nvidia/llama-3.2-nemoretriever-300m-embed-v2",
        "nvidia/llama-nemotron-embed-300m-v2",
    ),
}

# Beside those, of models that take images.
NIM_IMAGE_IDS: Mapping[Kind, tuple[str, ...]] = {
    "rank": ("nvidia/llama-nemotron-rerank-vl-1b-v2",),
    "embed": (
        "nvidia/llama-3.2-nemoretriever-1b-vlm-embed-v1",
        "nvidia/llama-nemotron-embed-vl-1b-v2",
    ),
}

# The only version of a model in Triton's terms.
TRITON_VERSION = "1"
# The hosted service's organisation, which its paths always name.
_ORG = "nvidia"


class AcceptedNames:
    """The served name and NVIDIA's ids of its kind, with or without organisation, with dots or
    underscores; those of vision models only if the model takes `images`."""

    def __init__(self, served: str, kind: Kind, *, images: bool = False) -> None:
        served = served if "/" in served else f"{_ORG}/{served}"
        vision = NIM_IMAGE_IDS[kind] if images else ()
        ids = [_plain(name) for name in (served, *NIM_IDS[kind], *vision)]
        self._names = frozenset(ids) | {name.rsplit("/", 1)[-1] for name in ids}

    def __iter__(self) -> Iterator[str]:
        return iter(self._names)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and _plain(name) in self._names


def triton_name(name: str) -> str:
    """The name of a Triton model in NIM 1.x: characters other than letters and digits become
    underscores."""
    return re.sub(r"[^A-Za-z0-9]", "_", name)


def _plain(name: str) -> str:
    """The normal spelling: NVIDIA's hosted paths write dots as underscores."""
    return name.replace(".", "_")
