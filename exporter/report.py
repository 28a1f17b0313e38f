"""parity.json: what was proven, with figures. Read without PyTorch."""

from pathlib import Path
from typing import Literal

import msgspec

from exporter.errors import ParityFailed, ReportRefused
from runtime.manifest import NOT_WITNESSED, PARITY_FILE, READABLE, SCHEMA
from runtime.model_files import JSON_BYTES, read_file
from runtime.profile import Precision

# The target that is chosen by measurement.
AUTO = "cpu-auto"
Rule = Literal["trained", "random-weights", "ndcg"]
RUNGS = ("tokens", "logits", "ranking")


class Rung(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One rung's figures; what does not apply is left out of the file.

    `pairs` counts pairs of texts (an embedder's texts, one by one), on the ranking rung pairs of
    passages. `kendall_tau` is left out where no two reference scores differ enough to be ordered.
    `tolerance` is the largest |Δ logit| on the logits rung (of an embedder the largest |Δ| of a
    component, for vectors of length 1), the lowest tau on the ranking rung; left out where the
    figure is only reported. `batch_max_abs_delta` is how far an output moved with the rows beside
    it. `lowest_cosine` is an embedder's: between a vector and its reference. `ndcg_drift` is 1 less
    the nDCG@10 of the engine's order, the reference's scores being the gains.
    """

    pairs: int
    passed: bool
    max_abs_delta: float | None = None
    rms_delta: float | None = None
    reference_std: float | None = None
    lowest_cosine: float | None = None
    kendall_tau: float | None = None
    top_k_overlap: float | None = None
    ndcg_drift: float | None = None
    tolerance: float | None = None
    batch_max_abs_delta: float | None = None


class Candidate(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A target that `--target cpu-auto` tried: its speed on this machine, or why it was refused."""

    target: str
    tokens_per_s: float | None = None
    refused: str | None = None


class Parity(msgspec.Struct, kw_only=True):
    """The contents of parity.json.

    `rule` says which tolerances were applied: "trained", "ndcg" for fp8 and int8 by TensorRT, or
    "random-weights" for precisions below float32 of a checkpoint with
    `"random_weights": true`. `witness` is the loader whose answers everything was compared with, or
    "not witnessed" and why. `cut` says how rows past the limit were compared, where loaders cut
    otherwise; left out where there were none. `flat` says how little the reference's scores differ,
    where that is so little that their order is of no use. `candidates` are the targets that
    `cpu-auto` compared. `plan` is what was proven of model.plan.
    """

    schema: int = SCHEMA
    engine: str
    precision: Precision
    rule: Rule
    versions: dict[str, str]
    hardware: dict[str, str]
    witness: str = NOT_WITNESSED
    cut: str | msgspec.UnsetType = msgspec.UNSET
    flat: str | msgspec.UnsetType = msgspec.UNSET
    rungs: dict[str, Rung] = {}
    candidates: list[Candidate] | msgspec.UnsetType = msgspec.UNSET
    plan: "Parity | msgspec.UnsetType" = msgspec.UNSET


def write_report(directory: Path, report: Parity) -> None:
    """Write parity.json, readable by people."""
    text = msgspec.json.format(msgspec.json.encode(report), indent=2)
    (directory / PARITY_FILE).write_bytes(text + b"\n")


def read_report(directory: Path) -> Parity:
    """The parity.json of an artifact. Raises ReportRefused when it cannot be read."""
    path = directory / PARITY_FILE
    try:
        raw = read_file(directory, PARITY_FILE, JSON_BYTES)
        schema = msgspec.json.decode(raw, type=dict[str, object]).get("schema")
        if schema not in READABLE:
            raise ReportRefused(
                f"{path} has schema {schema!r}, wanted {SCHEMA}; export the checkpoint again with "
                "this version"
            )
        return msgspec.json.decode(raw, type=Parity)
    except OSError as error:
        raise ReportRefused(f"cannot read {path}: {error.strerror}") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ReportRefused(f"{path} cannot be used ({error}); export again") from error


def require_passed(report: Parity) -> None:
    """Raise ParityFailed unless the report has all three rungs, and those of images where there are
    any, passed."""
    for name in dict.fromkeys((*RUNGS, *report.rungs)):
        if name not in report.rungs or not report.rungs[name].passed:
            raise ParityFailed(name, "parity.json does not say that it passed; export again")
