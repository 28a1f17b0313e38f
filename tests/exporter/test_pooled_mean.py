"""The mean over a text's tokens is a sum and no matrix product in graphs for a CPU.

OpenVINO computes products in bf16 on targets that ask for it, sums in float32: as a product the
mean had eight times the error. What the CPU of this machine can do does not matter here.
"""

from collections import defaultdict
from pathlib import Path

import onnx
from onnx import GraphProto

_PRODUCTS = {"MatMul", "Gemm", "Einsum", "FusedMatMul"}
_MASK = "attention_mask"


def products_with_the_mask(file: Path) -> list[str]:
    """Products of which a factor is computed from the attention mask and constants alone."""
    graph: GraphProto = onnx.load(file, load_external_data=False).graph
    inputs = {one.name for one in graph.input}
    sources: dict[str, set[str]] = defaultdict(set)
    sources.update({name: {name} for name in inputs})
    found = []
    for node in graph.node:
        read = set().union(*(sources[name] for name in node.input))
        for name in node.output:
            sources[name] = read
        if node.op_type in _PRODUCTS and any(sources[name] == {_MASK} for name in node.input):
            found.append(node.op_type)
    return found


def test_the_pooled_mean_is_no_product_for_a_cpu(embed_artifact: Path) -> None:
    assert products_with_the_mask(embed_artifact / "model.onnx") == []


def test_the_pooled_mean_is_one_for_cuda(half_embed_artifact: Path) -> None:
    """There the provider sums by cuDNN, and the product is in float32."""
    assert products_with_the_mask(half_embed_artifact / "model.onnx") == ["MatMul"]
