"""The model profile of an export: the requested one, the one for the checkpoint's architecture, or
the one that an artifact was made with."""

from dataclasses import dataclass

from exporter.architectures.base import Architecture
from exporter.checkpoint import Checkpoint
from runtime.errors import ProfileError
from runtime.manifest import Manifest
from runtime.profile import (
    Kind,
    ModelProfile,
    is_own_profile,
    load_model_profile,
    model_profile_names,
)


@dataclass(frozen=True)
class ChosenProfile:
    """The `facts` of a profile, and its name: one of ours, or the file of a user's own."""

    name: str
    facts: ModelProfile

    @property
    def is_own(self) -> bool:
        """Whether it is a user's own, which is stored in the artifact."""
        return is_own_profile(self.name)

    @property
    def origin(self) -> str:
        """The origin of a fact that only the profile has."""
        return f"the profile {self.name}, not witnessed"


def choose_profile(name: str | None, architecture: str, kind: Kind | None = None) -> ChosenProfile:
    """The profile called `name` (one of ours, an id, or the path of a user's own), or without a
    name, or an empty one, the one for this architecture, and of this `kind` if that is given:
    bodies make either. Raises ProfileError."""
    if name:
        return ChosenProfile(name.rsplit("/", 1)[-1], load_model_profile(name))
    names = model_profile_names()
    known = [ChosenProfile(one, load_model_profile(one)) for one in names]
    fitting = [
        profile
        for profile in known
        if architecture in profile.facts.architectures and kind in (None, profile.facts.kind)
    ]
    if len(fitting) != 1:
        raise ProfileError(
            f"found {len(fitting)} profiles for the architecture {architecture}"
            f"{'' if kind is None else f' and the kind {kind}'}, wanted one; "
            f"choose with --profile: {', '.join(names)}"
        )
    return fitting[0]


def recorded_profile(manifest: Manifest) -> ChosenProfile:
    """The profile that the artifact was made with; a user's own is in its manifest."""
    facts = manifest.own_profile or load_model_profile(manifest.profile)
    return ChosenProfile(manifest.profile, facts)


def refuse_other_kind(profile: ChosenProfile, checkpoint: Checkpoint) -> None:
    """Raise ProfileError for a profile of another kind of model."""
    if profile.facts.kind != checkpoint.kind:
        names = {"rank": "rerankers", "embed": "embedders"}
        raise ProfileError(
            f"profile {profile.name} is for {names[profile.facts.kind]}, but "
            f"{checkpoint.architecture} is one of the {names[checkpoint.kind]}; leave --profile "
            "out, or name one of its kind"
        )


def refuse_other_family(profile: ChosenProfile, model: Architecture) -> None:
    """Only models that read one text have a template; for others the tokenizer joins the pair.
    Raises ProfileError."""
    template = profile.facts.template
    if (template is not None) != model.templated:
        raise ProfileError(
            f"profile {profile.name} {'has no' if template is None else 'has a'} template, but the "
            f"checkpoint's model reads {'one text' if model.templated else 'two texts'}; leave "
            "--profile out, or name one of this family"
        )
