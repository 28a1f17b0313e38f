"""What an export or a quantization refuses before its long work, beside what reading and drafting
refuse."""

from pathlib import Path

from exporter.checkpoint import Checkpoint
from exporter.errors import CheckpointRefused, ExportError, OutputRefused
from exporter.proof import Proof
from runtime.manifest import Manifest
from runtime.profile import TargetProfile
from runtime.selection import image_targets, takes_images

# Precisions whose graph is made from the float32 one.
_FROM_FLOATS = ("bf16", "int8", "int8-weights")


def refuse_blind_target(target: TargetProfile, checkpoint: Checkpoint) -> None:
    """Raise ExportError for a target that computes no images and a checkpoint that takes them."""
    if checkpoint.vision is not None and not takes_images(target):
        raise ExportError(
            f"found the target {target.name}, wanted one of {', '.join(image_targets())}: "
            f"{checkpoint.architecture} takes images, which others do not compute"
        )


def refuse_quantization(manifest: Manifest, target: TargetProfile, source: Path, out: Path) -> None:
    """Raise ExportError unless the artifact in `source` can be quantized for `target`, and
    OutputRefused if `out` is that artifact."""
    from_floats = target.precision in _FROM_FLOATS and target.weights == "float32"
    if manifest.precision != "fp32" or not from_floats:
        raise ExportError(
            f"found an artifact in {manifest.precision} and the target {target.name} in "
            f"{target.precision}, wanted one in fp32 and a CPU's target in "
            f"{', '.join(_FROM_FLOATS)}; use `rerank-export export` with the checkpoint"
        )
    if out.exists() and out.samefile(source):
        raise OutputRefused(f"{out} is the artifact that is read; name another --out")


def refuse_weak_proof(proof: Proof, max_tokens: int, *, strict: bool) -> None:
    """Raise CheckpointRefused if `max_tokens` cut every parity text, or if the proof is `strict`
    and the reference's scores barely differ."""
    if all(len(row.token_ids) >= max_tokens for row in proof.rows()):
        raise CheckpointRefused(
            f"found a limit of {max_tokens} tokens, into which no parity text fits uncut; raise "
            "--max-tokens"
        )
    if strict and (flat := proof.flat()):
        raise CheckpointRefused(f"{flat} It is refused because of --strict")
