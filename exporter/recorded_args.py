"""The export options that a manifest records, so that an artifact is verified without them."""

from typing import TypedDict

from exporter.options import POOLING_OPTION, PREFIX_OPTION, TEMPLATE_OPTION
from exporter.prompt import Prompt
from runtime.manifest import Manifest
from runtime.profile import ModelProfile


class RecordedArgs(TypedDict, total=False):
    """Arguments of `exporter.draft.draft`."""

    own_profile: ModelProfile | None
    max_tokens: int
    template: Prompt | None
    prefixes: dict[str, str] | None


def recorded_args(manifest: Manifest) -> RecordedArgs:
    """The options that this manifest's facts came from, except the longest row."""
    origin, template = manifest.origins.get("template", ""), manifest.template
    # The name of a file may follow the option.
    requested = template is not None and origin.partition(" ")[0] == TEMPLATE_OPTION
    return RecordedArgs(
        own_profile=manifest.own_profile,
        template=Prompt(template, origin, written=False) if requested and template else None,
        prefixes=manifest.prefixes if _was_requested(manifest, "prefixes", PREFIX_OPTION) else None,
    )


def requested_pooling(manifest: Manifest) -> str | None:
    """The pooling, if it came from the option."""
    return manifest.pooling if _was_requested(manifest, "pooling", POOLING_OPTION) else None


def _was_requested(manifest: Manifest, fact: str, option: str) -> bool:
    return manifest.origins.get(fact) == option
