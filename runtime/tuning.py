"""tuning.json: the fastest limits of engine calls on one machine, beside the manifest.

It changes speed and never a score, so the manifest does not hash it. It applies to one artifact on
one engine and machine, and only tightens the target profile's limits. Where it does not fit, it is
ignored and the reason is logged.
"""

import logging
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import msgspec

from runtime import machine
from runtime.batch import BatchLimits
from runtime.errors import ArtifactError
from runtime.model_files import JSON_BYTES, is_there, read_file
from runtime.model_info import ModelInfo
from runtime.outputs import write_json

SCHEMA = 1
TUNING_FILE = "tuning.json"

_log = logging.getLogger(__name__)


class Tuning(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The contents of tuning.json.

    `conditions` are those of the measurement (see `conditions`). `token_budget`, `padding_waste`
    and `lanes` are those of BatchLimits; files of earlier versions have no `lanes`. `tokens_per_s`
    is the median speed with them, `default_tokens_per_s` with the target's own.
    """

    schema: int = SCHEMA
    conditions: dict[str, str]
    token_budget: Annotated[int, msgspec.Meta(ge=1)]
    padding_waste: Annotated[float, msgspec.Meta(ge=0)]
    lanes: Annotated[int, msgspec.Meta(ge=1)] | None = None
    tokens_per_s: float
    default_tokens_per_s: float

    def shown(self) -> str:
        """Its limits, for people."""
        calls = "" if self.lanes is None else f", concurrent calls: {self.lanes}"
        return f"{self.token_budget} tokens a call, {self.padding_waste:g} of them padding{calls}"


def conditions(info: ModelInfo) -> dict[str, str]:
    """The conditions of a measured speed: artifact, engine and machine."""
    return {
        "artifact": info.version,
        "engine": info.engine,
        "engine_version": info.engine_version,
        **machine.describe(),
    }


def tuned(directory: Path, info: ModelInfo, limits: BatchLimits) -> BatchLimits:
    """`limits`, tightened by the tuning.json of `directory` if it fits."""
    try:
        found = read_tuning(directory)
    except ArtifactError as error:
        _log.warning("%s", error)
        return limits
    if found is None:
        return limits
    if reason := mismatch(found, info, limits):
        _log.warning("%s is not used: %s; run `rerank-export tune` here", TUNING_FILE, reason)
        return limits
    _log.info("%s: %s", TUNING_FILE, found.shown())
    return replace(
        limits,
        token_budget=found.token_budget,
        padding_waste=found.padding_waste,
        lanes=found.lanes,
    )


def mismatch(tuning: Tuning, info: ModelInfo, limits: BatchLimits) -> str | None:
    """Why `tuning` does not fit a model with these `limits`; None if it fits."""
    if tuning.schema != SCHEMA:
        return f"found schema {tuning.schema}, wanted {SCHEMA}"
    for what, wanted in conditions(info).items():
        if (found := tuning.conditions.get(what)) != wanted:
            return f"it was measured with {what} {found!r}, this is {wanted!r}"
    if tuning.token_budget > limits.token_budget or tuning.padding_waste > limits.padding_waste:
        return (
            f"it allows {tuning.token_budget} tokens and {tuning.padding_waste:g} of padding, the "
            f"target at most {limits.token_budget} and {limits.padding_waste:g}"
        )
    return None


def read_tuning(directory: Path) -> Tuning | None:
    """Read the tuning of `directory`; None without one. Raises ArtifactError."""
    if not is_there(directory, TUNING_FILE):
        return None
    try:
        raw = read_file(directory, TUNING_FILE, JSON_BYTES)
        return msgspec.json.decode(raw, type=Tuning)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise ArtifactError(
            f"{TUNING_FILE} cannot be used ({reason}); run `rerank-export tune` again, or remove it"
        ) from error


def write_tuning(directory: Path, tuning: Tuning) -> None:
    """Write tuning.json atomically, as indented JSON."""
    write_json(directory / TUNING_FILE, tuning)
