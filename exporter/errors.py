"""Every error that the exporter raises on purpose, as one tree.

    ExportError
    ├── CheckpointRefused    the checkpoint cannot be exported faithfully, or cannot be read
    ├── NoWitness            no common loader can read the checkpoint
    ├── AttentionMismatch    the loaded model's attention differs from its config: causal or not
    ├── ReportRefused        parity.json is unreadable or of another schema
    ├── ManifestMismatch     manifest.json differs from the files or the checkpoint
    ├── QuantizationFailed   the graph cannot be quantized
    ├── PlanFailed           TensorRT cannot compile the graph
    ├── RepositoryRefused    the artifact lacks what a Triton platform needs
    ├── NoTargetProven       no CPU target can be proven on this machine
    └── ParityFailed         the artifact does not give the checkpoint's tokens, scores or order

OutputRefused, for an --out that must not be replaced, is the runtime's.
Messages say what was found, what was wanted and what to do next. Unlike the runtime's they may
show texts: an exporter sees only its own.
"""

from pathlib import Path

from runtime.errors import OutputRefused as OutputRefused


class ExportError(Exception):
    """Root of the tree above."""


class CheckpointRefused(ExportError):
    """The checkpoint is unreadable, of an unknown kind, or would be exported wrongly."""


class NoWitness(ExportError):
    """The loader that would be the witness cannot load the checkpoint, or not all of it."""


class AttentionMismatch(ExportError):
    """The probe found a causal model, wanted a bidirectional one, or the reverse."""


class ReportRefused(ExportError):
    """parity.json cannot be used."""


class ManifestMismatch(ExportError):
    """A fact in manifest.json differs from the files or the checkpoint."""

    def __init__(self, fact: str, found: object, wanted: object) -> None:
        super().__init__(
            f"manifest.json says {fact} = {found!r}, wanted {wanted!r}; export the checkpoint again"
        )


class QuantizationFailed(ExportError):
    """The float32 graph cannot be quantized to this precision."""


class PlanFailed(ExportError):
    """TensorRT cannot compile the graph."""


class RepositoryRefused(ExportError):
    """The artifact cannot be served on that Triton platform."""


class NoTargetProven(ExportError):
    """Every target that `--target cpu-auto` tried was refused."""


class ParityFailed(ExportError):
    """A rung of the parity ladder failed; `rung` is "tokens", "logits" or "ranking".

    `report` is where parity.json was kept, once that is known.
    """

    def __init__(self, rung: str, message: str) -> None:
        self.rung = rung
        self.report: Path | None = None
        super().__init__(f"parity failed at the rung {rung!r}: {message}")
