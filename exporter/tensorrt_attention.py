"""Attention in a TensorRT network, and which kernels compute it in a plan.

A fused kernel needs memory for no scores. TensorRT builds attention as one such kernel or fails,
unless it may be `decomposable`. If it may, only the engine inspector tells what became of it: each
layer of a plan that was built with detailed verbosity names the nodes of the graph that it computes
(docs.nvidia.com, TensorRT, "Engine Inspector"), and fused kernels are called `..._mha_...`.
"""

import json
import re
from collections.abc import Sequence
from typing import Any

_FUSED = "mha"
_LISTED = 4


def attentions(trt: Any, network: Any) -> list[Any]:
    """What the parser made of ONNX's Attention, as IAttention; the operator has no attribute for
    `decomposable`."""
    found = []
    for number in range(network.num_layers):
        layer = network.get_layer(number)
        if layer.type == trt.LayerType.ATTENTION_INPUT:
            # The bindings return every layer as its base class.
            layer.__class__ = trt.IAttentionInputLayer
            found.append(layer.attention)
    return found


def unfused(
    trt: Any, logger: Any, serialized: Any, names: Sequence[str], *, host_code: bool
) -> str:
    """A line that says which of the attentions called `names` the plan `serialized` computes in
    parts. `host_code` is true if the plan has code for the CPU, which this process made."""
    runtime = trt.Runtime(logger)
    runtime.engine_host_code_allowed = host_code
    plan = runtime.deserialize_cuda_engine(serialized)
    kernels = [] if plan is None else _kernels(trt, plan)
    if not any(_computes(kernel, name) for kernel in kernels for name in names):
        return "TensorRT's inspector names no layer of attention: which are in parts is unknown"
    fused = [kernel for kernel in kernels if _is_fused(kernel)]
    apart = [name for name in names if not any(_computes(kernel, name) for kernel in fused)]
    if not apart:
        return f"the attention of all {len(names)} layers is in fused kernels after all"
    more = "" if len(apart) <= _LISTED else f" and {len(apart) - _LISTED} more"
    return (
        f"the attention of {len(apart)} of {len(names)} layers is computed in parts: "
        f"{', '.join(apart[:_LISTED])}{more}"
    )


def _kernels(trt: Any, plan: Any) -> list[dict[str, Any]]:
    """What the inspector says of each layer of `plan`."""
    inspector = plan.create_engine_inspector()
    information = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    layers = json.loads(information).get("Layers", [])
    # Of a layer without details there is only the name.
    return [one if isinstance(one, dict) else {"Name": one} for one in layers]


def _is_fused(kernel: dict[str, Any]) -> bool:
    """Whether `kernel` is one of attention."""
    return any(_FUSED in str(kernel.get(key, "")).lower() for key in ("Name", "TacticName"))


def _computes(kernel: dict[str, Any], name: str) -> bool:
    """Whether `kernel` computes the node `name`, which other names may begin with."""
    text = f"{kernel.get('Name', '')} {kernel.get('Metadata', '')}"
    return re.search(rf"(?<![\w.]){re.escape(name)}(?![\w.])", text) is not None
