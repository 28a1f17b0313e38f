"""Profiles: facts about a model family and about a target, read from TOML (package `profiles`).

A new model or target is a new file; no code knows a profile by name. Unknown keys are refused.
"""

from importlib import resources
from typing import Literal, TypeVar

import msgspec

from runtime.errors import ProfileError

Kind = Literal["rank", "embed"]
PaddingSide = Literal["left", "right"]
Precision = Literal["fp32", "fp16", "bf16", "int8", "int8-weights"]


class ModelProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Facts about one model family that decide its scores.

    `template` holds `{query}` and `{passage}` for families that read one sequence; None means
    that the tokenizer joins the pair itself (BERT). `architectures` are the names in config.json
    that select this profile when none is named. `max_tokens` bounds one encoded pair or text.
    `adds_bos` and `adds_eos` say whether the family's tokenizer puts special tokens around it.

    For embedders: `prefixes` maps input types to what stands before every text of that type (none:
    the model is symmetric), `dimensions` is the size of a vector where the family has only one.
    """

    id: str
    kind: Kind
    architectures: tuple[str, ...] = ()
    template: str | None = None
    adds_bos: bool
    adds_eos: bool
    max_tokens: int
    padding_side: PaddingSide
    prefixes: dict[str, str] = {}
    dimensions: int | None = None


class TargetProfile(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where and how an artifact runs.

    `engine` is a row of `runtime.engines.ENGINES`; `max_rows` bounds rows per engine call;
    `token_budget` bounds rows × longest row of one call, in tokens; `padding_waste` is the
    largest share of padding that a call of several rows may carry.
    """

    name: str
    engine: str
    precision: Precision
    max_rows: int
    token_budget: int
    padding_waste: float


_Profile = TypeVar("_Profile", ModelProfile, TargetProfile)


def load_model_profile(name: str) -> ModelProfile:
    """The model profile `profiles/models/<name>.toml`; an id with its organisation works too."""
    stem = name.rsplit("/", 1)[-1]
    return _load("models", stem, ModelProfile)


def load_target_profile(name: str) -> TargetProfile:
    """The target profile `profiles/targets/<name>.toml`."""
    return _load("targets", name, TargetProfile)


def model_profile_names() -> list[str]:
    """Names that `load_model_profile` takes, sorted."""
    return _names("models")


def target_profile_names() -> list[str]:
    """Names that `load_target_profile` takes, sorted."""
    return _names("targets")


def _names(folder: str) -> list[str]:
    entries = resources.files("profiles").joinpath(folder).iterdir()
    return sorted(e.name.removesuffix(".toml") for e in entries if e.name.endswith(".toml"))


def _load(folder: str, name: str, kind: type[_Profile]) -> _Profile:
    known = _names(folder)
    if name not in known:
        raise ProfileError(f"found no profile named {name!r}, wanted one of: {', '.join(known)}")
    text = resources.files("profiles").joinpath(folder, f"{name}.toml").read_bytes()
    try:
        return msgspec.toml.decode(text, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProfileError(f"profiles/{folder}/{name}.toml: {error}") from error
