"""The candidates: one row each."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from benchmarks.artifacts import PLAIN_INT8

Speaks = Literal["lines", "service", "infinity", "nim"]
Precision = Literal["fp32", "bf16", "int8"]

# Targets of rerank-export; one without a profile is listed as skipped.
TARGETS: dict[str, Precision] = {
    "cpu-fp32": "fp32",
    "cpu-fp32-openvino": "fp32",
    "cpu-int8": "int8",
    "cpu-int8-openvino": "int8",
    "cpu-bf16": "bf16",
}
REFERENCE = "torch-rows"


@dataclass(frozen=True)
class Candidate:
    """`module` under benchmarks.candidates runs in the environment of `peer` (None: this one).

    `graph` names the exported graph that it reads; `families` are those that it can run;
    `options` go into its Setting, `note` into the report. `small_only` candidates are left out at
    1B, where every repeat costs minutes.
    nothing new at 1B, where every repeat costs minutes.
    """

    name: str
    module: str
    speaks: Speaks
    precision: Precision
    peer: str | None = None
    graph: str | None = None
    families: tuple[str, ...] = ("llama", "bert")
    options: Mapping[str, Any] = field(default_factory=dict)
    small_only: bool = False
    note: str = ""

    @property
    def ours(self) -> bool:
        """Whether it belongs to this project."""
        return self.module.startswith("ours")

    @property
    def serves(self) -> bool:
        """Whether it answers HTTP, with several clients at a time."""
        return self.speaks != "lines"


def _ours() -> list[Candidate]:
    rows = []
    for target, precision in TARGETS.items():
        short = target.removeprefix("cpu-")
        rows += [
            Candidate(f"ours-{short}", "ours_service", "nim", precision, graph=target),
            Candidate(
                f"ours-{short}-direct",
                "ours_direct",
                "lines",
                precision,
                graph=target,
                small_only=True,
                note="runtime.opening.open_ranker, no server",
            ),
        ]
    return rows


_DTYPES: dict[str, Precision] = {"float32": "fp32", "bfloat16": "bf16"}


def _torch(
    name: str, module: str, speaks: Speaks, peer: str, dtype: str, note: str = ""
) -> Candidate:
    return Candidate(
        name, module, speaks, _DTYPES[dtype], peer, options={"dtype": dtype}, note=note
    )


def _st(name: str, precision: Precision, note: str, **options: Any) -> Candidate:
    # optimum cannot export the llama_bidirec family.
    return Candidate(
        name,
        "st_exported",
        "lines",
        precision,
        "st_exported",
        families=("bert",),
        options=options,
        note=note,
    )


def _raw(
    name: str,
    module: str,
    precision: Precision,
    graph: str,
    *,
    small_only: bool = False,
    **options: Any,
) -> Candidate:
    note = "sorted batches" if options["grouped"] else "one unpadded row a call"
    peer = module.removeprefix("raw_")
    return Candidate(
        name,
        module,
        "lines",
        precision,
        peer,
        graph,
        options=options,
        small_only=small_only,
        note=note,
    )


_PADDED = "one batch a request, padded to its longest"
_JOINED = "joins the pair itself: no template, so other tokens where the family has one"
_ORT, _OV = "raw_onnxruntime", "raw_openvino"

CANDIDATES = (
    *_ours(),
    _torch("torch-service", "torch_service", "service", "torch", "float32", f"FastAPI; {_PADDED}"),
    _torch(
        "torch-service-bf16", "torch_service", "service", "torch", "bfloat16", f"FastAPI; {_PADDED}"
    ),
    _torch(REFERENCE, "torch_rows", "lines", "torch", "float32", "the reference for fidelity"),
    _torch("torch-rows-bf16", "torch_rows", "lines", "torch", "bfloat16"),
    _torch("st", "st_cross_encoder", "lines", "sentence_transformers", "float32"),
    _torch("st-bf16", "st_cross_encoder", "lines", "sentence_transformers", "bfloat16"),
    _st("st-onnx", "fp32", "backend onnx", backend="onnx"),
    _st("st-onnx-int8", "int8", "backend onnx, its dynamic int8", backend="onnx", int8=True),
    _st("st-openvino", "fp32", "backend openvino, f32 hint", backend="openvino", hint="f32"),
    _st("st-openvino-bf16", "bf16", "backend openvino, bf16 hint", backend="openvino", hint="bf16"),
    _torch("infinity", "infinity_service", "infinity", "infinity", "float32", _JOINED),
    _torch("infinity-bf16", "infinity_service", "infinity", "infinity", "bfloat16", _JOINED),
    Candidate(
        "fastembed",
        "fastembed_encoder",
        "lines",
        "fp32",
        "fastembed",
        "cpu-fp32",
        families=("bert",),
        note="on our graph",
    ),
    _raw("ort-rows", _ORT, "fp32", "cpu-fp32", grouped=False),
    _raw("ort-sorted", _ORT, "fp32", "cpu-fp32", small_only=True, grouped=True),
    _raw("ort-int8-rows", _ORT, "int8", PLAIN_INT8, grouped=False),
    _raw("ort-int8-sorted", _ORT, "int8", PLAIN_INT8, grouped=True),
    _raw("openvino-rows", _OV, "fp32", "cpu-fp32", grouped=False, hint="f32"),
    _raw("openvino-sorted", _OV, "fp32", "cpu-fp32", small_only=True, grouped=True, hint="f32"),
    _raw("openvino-bf16-rows", _OV, "bf16", "cpu-fp32", grouped=False, hint="bf16"),
    _raw(
        "openvino-bf16-sorted", _OV, "bf16", "cpu-fp32", small_only=True, grouped=True, hint="bf16"
    ),
)
BY_NAME = {candidate.name: candidate for candidate in CANDIDATES}
