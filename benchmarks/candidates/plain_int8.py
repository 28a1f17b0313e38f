"""Make the int8 graph of ONNX Runtime's own quantize_dynamic, per channel, as the plain baseline.

python -m benchmarks.candidates.plain_int8 ARTIFACT FOLDER
"""

import shutil
import sys
import tempfile
from pathlib import Path

import onnx
from onnxruntime.quantization import QuantType, quantize_dynamic

# Above this size protobuf needs the weights in a separate file.
_LARGE_BYTES = 1_500_000_000


def main(artifact: Path, folder: Path) -> None:
    """Write model.onnx and tokenizer/ into `folder`."""
    folder.mkdir(parents=True)
    shutil.copytree(artifact / "tokenizer", folder / "tokenizer")
    graph = onnx.load(artifact / "model.onnx", load_external_data=False)
    # Shapes that the exporter recorded contradict those that the quantiser infers.
    del graph.graph.value_info[:]
    with tempfile.TemporaryDirectory(dir=folder) as temporary:
        stripped = Path(temporary) / "model.onnx"
        onnx.save(graph, stripped)
        for data in artifact.glob("model.onnx.*"):
            # A copy: onnx refuses links.
            shutil.copyfile(data, stripped.with_name(data.name))
        quantize_dynamic(
            stripped,
            folder / "model.onnx",
            per_channel=True,
            weight_type=QuantType.QInt8,
            op_types_to_quantize=["MatMul"],
            nodes_to_exclude=_products_with_vectors(graph.graph),
            use_external_data_format=_bytes(artifact) > _LARGE_BYTES,
        )


def _products_with_vectors(graph: onnx.GraphProto) -> list[str]:
    """Nodes whose second factor has one axis: the quantised operator refuses them."""
    vectors = {tensor.name for tensor in graph.initializer if len(tensor.dims) < 2}
    return [
        node.name for node in graph.node if node.op_type == "MatMul" and node.input[1] in vectors
    ]


def _bytes(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("model.onnx*"))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
