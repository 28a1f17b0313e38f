"""The candidates: one row each."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from benchmarks.artifacts import PLAIN_FP32, PLAIN_INT8

Speaks = Literal["plain", "infinity", "nim"]
Precision = Literal["fp32", "bf16", "int8"]
REFERENCE = "torch-rows"
_DTYPES: tuple[tuple[str, Precision, str], ...] = (
    ("", "fp32", "float32"),
    ("-bf16", "bf16", "bfloat16"),
)


@dataclass(frozen=True)
class Candidate:
    """`module` under benchmarks.candidates runs in the environment of `peer` (None: this one).

    `graph` names the exported graph that it reads; `families` are those that it can run;
    `options` go into its Setting, `note` into the report. `small_only` candidates show nothing new
    at 1B, where every repeat costs minutes.
    """

    name: str
    module: str
    precision: Precision
    peer: str | None = None
    graph: str | None = None
    note: str = ""
    speaks: Speaks = "plain"
    families: tuple[str, ...] = ("llama", "bert", "qwen3")
    options: Mapping[str, Any] = field(default_factory=dict)
    small_only: bool = False

    @property
    def ours(self) -> bool:
        """Whether it belongs to this project."""
        return self.module.startswith("ours")

    @property
    def serves(self) -> bool:
        """Whether it is a server, measured with several clients at a time."""
        return self.module.endswith("_service")


def _ours(target: str, precision: Precision) -> list[Candidate]:
    """A target of rerank-export, served and direct; one without a profile is listed as skipped."""
    name = f"ours-{target.removeprefix('cpu-')}"
    note = "runtime.opening.open_ranker, no server"
    return [
        Candidate(name, "ours_service", precision, None, target, speaks="nim"),
        Candidate(f"{name}-direct", "ours_direct", precision, None, target, note, small_only=True),
    ]


def _torch(
    name: str, module: str, note: str = "", *, peer: str = "torch", **more: Any
) -> list[Candidate]:
    """PyTorch in float32 and in bfloat16."""
    return [
        Candidate(
            name + end,
            module,
            precision,
            peer,
            note="the reference for fidelity" if name + end == REFERENCE else note,
            options={"dtype": dtype},
            **more,
        )
        for end, precision, dtype in _DTYPES
    ]


def _st(name: str, precision: Precision, note: str, **options: Any) -> Candidate:
    # optimum cannot export the llama_bidirec family.
    module, peer, families = "st_cross_encoder", "st_exported", ("bert",)
    return Candidate(name, module, precision, peer, None, note, families=families, options=options)


def _raw(
    name: str,
    peer: str,
    precision: Precision,
    graph: str,
    *,
    sorted_too: bool = False,
    **options: Any,
) -> list[Candidate]:
    """An engine without a server: one row a call, and sorted batches, at 1B too if `sorted_too`."""
    notes = {"rows": "one unpadded row a call", "sorted": "sorted batches"}
    return [
        Candidate(
            f"{name}-{how}",
            f"raw_{peer}",
            precision,
            peer,
            graph,
            note,
            options={"grouped": how == "sorted", **options},
            small_only=how == "sorted" and not sorted_too,
        )
        for how, note in notes.items()
    ]


_PADDED = "FastAPI; one batch a request, padded to its longest"
_JOINED = "joins the pair itself: no template, so other tokens where the family has one"

CANDIDATES = (
    *_ours("cpu-fp32", "fp32"),
    *_ours("cpu-fp32-openvino", "fp32"),
    *_ours("cpu-int8", "int8"),
    *_ours("cpu-int8-openvino", "int8"),
    *_ours("cpu-bf16", "bf16"),
    *_torch("torch-service", "torch_service", _PADDED),
    *_torch(REFERENCE, "torch_model"),
    *_torch("st", "st_cross_encoder", peer="sentence_transformers"),
    _st("st-onnx", "fp32", "backend onnx", backend="onnx"),
    _st("st-onnx-int8", "int8", "backend onnx, its dynamic int8", backend="onnx", int8=True),
    _st("st-openvino", "fp32", "backend openvino, f32 hint", backend="openvino", hint="f32"),
    _st("st-openvino-bf16", "bf16", "backend openvino, bf16 hint", backend="openvino", hint="bf16"),
    *_torch(
        "infinity",
        "infinity_service",
        _JOINED,
        peer="infinity",
        speaks="infinity",
        families=("llama", "bert"),
    ),
    Candidate(
        "fastembed",
        "fastembed_encoder",
        "fp32",
        "fastembed",
        PLAIN_FP32,
        "on our graph, the whole last layer",
        families=("bert",),
    ),
    *_raw("ort", "onnxruntime", "fp32", PLAIN_FP32),
    *_raw("ort-int8", "onnxruntime", "int8", PLAIN_INT8, sorted_too=True),
    *_raw("openvino", "openvino", "fp32", PLAIN_FP32, hint="f32"),
    *_raw("openvino-bf16", "openvino", "bf16", PLAIN_FP32, hint="bf16"),
)
BY_NAME = {candidate.name: candidate for candidate in CANDIDATES}
