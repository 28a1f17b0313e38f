"""ONNX Runtime without a server, on the plain graph in float32 or its own int8."""

from pathlib import Path

import onnxruntime as ort

from benchmarks.candidates.pairs import scored
from benchmarks.protocol import Score, Setting


def load(setting: Setting) -> Score:
    """One row a call, or rows grouped by length as the options say."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = setting.threads
    session = ort.InferenceSession(
        str(Path(setting.graph) / "model.onnx"), options, providers=["CPUExecutionProvider"]
    )
    names = [one.name for one in session.get_inputs()]
    return scored(setting, names, lambda inputs: session.run(None, inputs)[0])
