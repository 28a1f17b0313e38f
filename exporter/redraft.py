"""The draft of an artifact from its checkpoint again, with the options that its manifest records:
its facts must be those of the checkpoint."""

from dataclasses import replace

from exporter.checkpoint import Checkpoint
from exporter.draft import Draft, ExportArgs, draft
from exporter.errors import CheckpointRefused, ManifestMismatch
from exporter.model_profile import recorded_profile
from exporter.options import ADAPTER_OPTION, POOLING_OPTION, PREFIX_OPTION, TEMPLATE_OPTION
from exporter.prompt import Prompt
from runtime.manifest import Manifest
from runtime.profile import TargetProfile

# Fields of a manifest that checkpoint and profiles decide.
_FACTS = (
    "kind",
    "model_id",
    "template",
    "instruction",
    "instruction_format",
    "tokenize_apart",
    "prefixes",
    "special_tokens",
    "padding_side",
    "pooling",
    "temperature",
    "causal",
    "normalize",
    "dimensions",
    "precision",
    "inputs",
    "outputs",
    "activation",
    "vision",
)


def redraft(manifest: Manifest, checkpoint: Checkpoint, target: TargetProfile) -> Draft:
    """The draft for this `manifest`, which it has in place of its own.

    Raises ManifestMismatch for the first fact that differs from the checkpoint, and what drafting
    raises.
    """
    _refuse_other_adapter(manifest, checkpoint)
    profile = recorded_profile(manifest)
    template = _requested_template(manifest)
    prefixes = manifest.prefixes if _was_requested(manifest, "prefixes", PREFIX_OPTION) else None
    found = draft(checkpoint, profile, target, ExportArgs(template=template, prefixes=prefixes))
    if manifest.max_tokens > (limit := found.manifest.max_tokens):
        raise ManifestMismatch("max_tokens", manifest.max_tokens, f"at most {limit}")
    for fact in _FACTS:
        if getattr(manifest, fact) != getattr(found.manifest, fact):
            raise ManifestMismatch(fact, getattr(manifest, fact), getattr(found.manifest, fact))
    tokenizer = replace(found.tokenizer, max_tokens=manifest.max_tokens)
    return replace(found, manifest=manifest, tokenizer=tokenizer)


def requested_pooling(manifest: Manifest) -> str | None:
    """The pooling, if it came from the option."""
    return manifest.pooling if _was_requested(manifest, "pooling", POOLING_OPTION) else None


def _requested_template(manifest: Manifest) -> Prompt | None:
    origin, template = manifest.origins.get("template", ""), manifest.template
    # The name of a file may follow the option.
    if not template or origin.partition(" ")[0] != TEMPLATE_OPTION:
        return None
    return Prompt(template, origin, written=False)


def _was_requested(manifest: Manifest, fact: str, option: str) -> bool:
    return manifest.origins.get(fact) == option


def _refuse_other_adapter(manifest: Manifest, checkpoint: Checkpoint) -> None:
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
