"""The export's own step: a float32 graph in a directory becomes a coarser one."""

import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from exporter.errors import QuantizationFailed
from exporter.library_texts import calibration_pairs
from exporter.onnx_file import EXTERNAL_DATA_BYTES
from exporter.progress import stage
from exporter.quantization.calibration import Inputs, watch
from exporter.quantization.graph import Graph
from exporter.quantization.int8 import FUSED_OPERATOR, quantize_int8
from exporter.quantization.weight_only import quantize_weights
from runtime.batch import assemble
from runtime.manifest import MODEL_FILE, TOKENIZER_FILE, Manifest
from runtime.text import Encoding, PairEncoder, TextEncoder, load_tokenizer

_ERRORS_ONLY = 3


def quantize(directory: Path, manifest: Manifest) -> None:
    """Rewrite model.onnx of `directory` as the manifest's precision wants it, if it is one that
    changes the graph. Raises QuantizationFailed."""
    if manifest.precision == "int8":
        with stage("calibrate and round to int8"):
            _to_int8(directory, manifest)
    elif manifest.precision == "int8-weights":
        with stage("round the weights to 8 bits"):
            _to_int8_weights(directory)


def _to_int8(directory: Path, manifest: Manifest) -> None:
    path = directory / MODEL_FILE
    outline = Graph(onnx.load(path, load_external_data=False))
    sources = list(dict.fromkeys(linear.source for linear in outline.linears()))
    _require_layers(len(sources))
    ranges = watch(directory, sources, _texts(directory, manifest))
    model = onnx.load(path)
    products = quantize_int8(model, ranges)
    _replace(path, model)
    _require_fusion(path, manifest, products)


def _to_int8_weights(directory: Path) -> None:
    path = directory / MODEL_FILE
    model = onnx.load(path)
    _require_layers(quantize_weights(model))
    _replace(path, model)


def _require_layers(found: int) -> None:
    if not found:
        raise QuantizationFailed("found no linear layer in the graph, wanted some to quantise")


def _replace(path: Path, model: onnx.ModelProto) -> None:
    for file in (path, path.with_name(f"{path.name}.data")):
        file.unlink(missing_ok=True)
    size = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    onnx.save(
        model,
        path,
        save_as_external_data=size > EXTERNAL_DATA_BYTES,
        location=f"{path.name}.data",
    )


def _texts(directory: Path, manifest: Manifest) -> Iterator[Inputs]:
    special = manifest.special_tokens
    for row in _rows(directory, manifest):
        yield assemble([row], manifest.inputs, special.pad, manifest.padding_side)


def _rows(directory: Path, manifest: Manifest) -> Iterator[Encoding]:
    tokenizer = load_tokenizer(directory / TOKENIZER_FILE)
    if manifest.kind == "rank":
        pairs = PairEncoder(tokenizer, manifest.template, manifest.max_tokens)
        for query, passage in calibration_pairs(manifest.max_tokens):
            yield from pairs.encode(query, [passage], "END").rows
        return
    texts = TextEncoder(tokenizer, manifest.prefixes, manifest.max_tokens)
    for query, passage in calibration_pairs(manifest.max_tokens):
        yield from texts.encode([query], "query", "END").rows
        yield from texts.encode([passage], "passage", "END").rows


def _require_fusion(path: Path, manifest: Manifest, products: int) -> None:
    """ONNX Runtime computes unfused products in float32, several times slower, and says nothing."""
    with tempfile.TemporaryDirectory() as directory:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = _ERRORS_ONLY
        options.enable_profiling = True
        options.profile_file_prefix = str(Path(directory) / "profile")
        session = onnxruntime.InferenceSession(
            str(path), sess_options=options, providers=["CPUExecutionProvider"]
        )
        inputs = {name: np.ones((1, 2), np.int64) for name in manifest.inputs}
        session.run(None, inputs)
        events = json.loads(Path(session.end_profiling()).read_text())
    ran = Counter(
        event["args"]["op_name"]
        for event in events
        if event.get("cat") == "Node" and event["name"].endswith("kernel_time")
    )
    if ran[FUSED_OPERATOR] != products:
        raise QuantizationFailed(
            f"ONNX Runtime fused {ran[FUSED_OPERATOR]} of {products} products into "
            f"{FUSED_OPERATOR}; this version would compute the others in float32"
        )
