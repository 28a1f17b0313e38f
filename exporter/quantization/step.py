"""The quantization step of an export: rewrite a float32 graph in a directory.

int8 is calibrated on real texts. Errors in the queries and keys of attention are amplified by the
softmax. On some trained models they cause most of the changed order, on others almost none. So both
graphs are made, and the slower one, which rounds those layers twice, is kept if it is nearer to the
float32 graph.
"""

import itertools
import json
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx

from exporter.errors import QuantizationFailed
from exporter.library_texts import calibration_pairs
from exporter.onnx_file import save_graph
from exporter.progress import print_line, stage
from exporter.quantization.calibration import Inputs, answers, open_session, watch
from exporter.quantization.graph import Floats, Graph
from exporter.quantization.images import image_rows
from exporter.quantization.int8 import FUSED_OPERATOR, quantize_int8, rounded_once
from exporter.quantization.weight_only import quantize_weights
from runtime.batch import INPUT_NAMES, assemble
from runtime.manifest import MODEL_FILE, TOKENIZER_FILE, Manifest
from runtime.requests import EmbedRequest, RankRequest
from runtime.text import Encoding, TextEncoder, load_tokenizer
from runtime.vision.encoding import pair_encoder
from runtime.vision.layout import image_inputs

_ONCE_FILE = "once.onnx"
# Twice costs a tenth of the speed; an error that is hardly smaller is not worth that.
_WORTH_TWICE = 0.9


def quantize(directory: Path, manifest: Manifest) -> None:
    """Rewrite model.onnx of `directory` to the manifest's precision, if that changes the graph.
    Raises QuantizationFailed."""
    if manifest.precision == "int8":
        with stage("calibrate and round to int8"):
            _to_int8(directory, manifest)
    elif manifest.precision == "int8-weights":
        with stage("round the weights to 8 bits"):
            _to_int8_weights(directory)


def _to_int8(directory: Path, manifest: Manifest) -> None:
    path = directory / MODEL_FILE
    outline = Graph(onnx.load(path, load_external_data=False))
    sources = outline.sources()
    _require_layers(len(sources))
    texts = list(calibration_rows(directory, manifest))
    observed = watch(directory, sources, texts)
    model = onnx.load(path)
    quantize_int8(model, observed.ranges, outline.asking())
    save_graph(model, path)
    del model
    once = directory / _ONCE_FILE  # beside the weights, which are the same
    model = onnx.load(path, load_external_data=False)
    rounded_once(model)
    onnx.save(model, once)
    errors = [_error(answers(graph, texts), observed.answers) for graph in (once, path)]
    chosen = int(errors[1] < _WORTH_TWICE * errors[0])
    print_line(
        f"rms error {errors[0]:.2g}, with queries and keys rounded twice {errors[1]:.2g}: "
        f"{('once', 'twice')[chosen]} is enough"
    )
    if chosen:
        once.unlink()
    else:
        once.replace(path)
    _require_fusion(path, manifest, len(outline.linears()) + chosen * len(outline.asking()))


def _error(found: Floats, wanted: Floats) -> float:
    return float(np.sqrt(np.mean((found - wanted) ** 2)))


def _to_int8_weights(directory: Path) -> None:
    path = directory / MODEL_FILE
    model = onnx.load(path)
    _require_layers(quantize_weights(model))
    save_graph(model, path)


def _require_layers(found: int) -> None:
    if not found:
        raise QuantizationFailed("found no linear layer in the graph, wanted some to quantise")


def calibration_rows(directory: Path, manifest: Manifest) -> Iterator[Inputs]:
    """The calibration texts in the right prompt, and images where the model takes some, as inputs
    of one unpadded row each."""
    vision = manifest.vision
    rows = _rows(directory, manifest)
    if vision is not None:
        rows = itertools.chain(rows, image_rows(directory, manifest))
    names = [name for name in manifest.inputs if name in INPUT_NAMES]
    for row in rows:
        inputs = assemble([row], names, manifest.special_tokens.pad, manifest.padding_side)
        if vision is not None:
            shape = 1, len(row)
            inputs |= image_inputs([row], manifest.padding_side, shape, vision)
        yield inputs


def _rows(directory: Path, manifest: Manifest) -> Iterator[Encoding]:
    tokenizer = load_tokenizer(directory / TOKENIZER_FILE)
    if manifest.kind == "rank":
        pairs = pair_encoder(manifest, tokenizer, manifest.max_tokens)
        for query, passage in calibration_pairs(manifest.max_tokens):
            yield from pairs.encode(RankRequest(query, [passage], truncate="END")).rows
        return
    texts = TextEncoder(tokenizer, manifest.prefixes, manifest.max_tokens)
    for query, passage in calibration_pairs(manifest.max_tokens):
        yield from texts.encode(EmbedRequest([query], "query", truncate="END")).rows
        yield from texts.encode(EmbedRequest([passage], "passage", truncate="END")).rows


def _require_fusion(path: Path, manifest: Manifest, products: int) -> None:
    """ONNX Runtime computes unfused products silently in float32, several times slower."""
    with tempfile.TemporaryDirectory() as directory:
        prefix = str(Path(directory) / "profile")
        session = open_session(path, enable_profiling=True, profile_file_prefix=prefix)
        row = Encoding(np.ones(2, np.int64), None)
        names = [name for name in manifest.inputs if name in INPUT_NAMES]
        inputs = assemble([row], names, 0, "left")
        if manifest.vision is not None:
            inputs |= image_inputs([row], "left", (1, 2), manifest.vision)
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
