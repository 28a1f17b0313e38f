"""What an artifact was asked for, of what no file of its checkpoint says: its manifest tells."""

from typing import TypedDict

from exporter.options import POOLING_OPTION, PREFIX_OPTION, TEMPLATE_OPTION
from exporter.prompt import Prompt
from runtime.manifest import Manifest
from runtime.profile import ModelProfile


class Wishes(TypedDict, total=False):
    """Arguments of `exporter.draft.draft`."""

    own_profile: ModelProfile | None
    max_tokens: int
    template: Prompt | None
    prefixes: dict[str, str] | None


def wishes_of(manifest: Manifest) -> Wishes:
    """The wishes that this manifest's facts came from, but for the longest row."""
    origin, template = manifest.origins.get("template", ""), manifest.template
    # The name of a file may follow.
    wished = template is not None and origin.partition(" ")[0] == TEMPLATE_OPTION
    return Wishes(
        own_profile=manifest.own_profile,
        template=Prompt(template, origin, written=False) if wished and template else None,
        prefixes=manifest.prefixes if _is_wish(manifest, "prefixes", PREFIX_OPTION) else None,
    )


def wished_pooling(manifest: Manifest) -> str | None:
    """The pooling, if it was a wish."""
    return manifest.pooling if _is_wish(manifest, "pooling", POOLING_OPTION) else None


def _is_wish(manifest: Manifest, fact: str, option: str) -> bool:
    return manifest.origins.get(fact) == option
