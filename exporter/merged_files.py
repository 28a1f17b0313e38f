"""The files that an artifact's weights were merged from, compared with those of a checkpoint."""

from exporter.adapter import ADAPTER_CONFIG
from exporter.checkpoint import Checkpoint
from exporter.errors import CheckpointRefused, ManifestMismatch
from exporter.options import ADAPTER_OPTION
from runtime.manifest import Manifest


def merged_by(checkpoint: Checkpoint) -> dict[str, str]:
    """The origin of `Checkpoint.merged`, as a text of `Manifest.origins`."""
    if checkpoint.adapter is None:
        return {}
    base = checkpoint.adapter.base or checkpoint.base.name
    return {"merged": f"{ADAPTER_CONFIG} (LoRA) and its base {base}"}


def refuse_other_adapter(manifest: Manifest, checkpoint: Checkpoint) -> None:
    """Raise CheckpointRefused if only one of the two has an adapter, and ManifestMismatch if they
    have different ones."""
    if manifest.merged and checkpoint.adapter is None:
        raise CheckpointRefused(
            f"the artifact was made with an adapter, but the checkpoint {checkpoint.source} is "
            f"read without one; name it as {ADAPTER_OPTION}"
        )
    if checkpoint.adapter is not None and not manifest.merged:
        raise CheckpointRefused(
            f"the artifact was made without an adapter, but the checkpoint {checkpoint.source} is "
            f"read with the one in {checkpoint.adapter.directory}; leave {ADAPTER_OPTION} out, and "
            "name the folder of the base"
        )
    found = checkpoint.merged
    for name in sorted(manifest.merged.keys() | found.keys()):
        if manifest.merged.get(name) != found.get(name):
            raise ManifestMismatch(f"merged {name}", manifest.merged.get(name), found.get(name))
