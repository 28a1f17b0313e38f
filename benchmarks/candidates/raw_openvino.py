"""OpenVINO without a server, on the plain float32 graph, its precision stated."""

from pathlib import Path

from benchmarks.candidates.pairs import scored
from benchmarks.protocol import Score, Setting
from runtime.telemetry import import_without_telemetry


def load(setting: Setting) -> Score:
    """One row a call, or rows grouped by length as the options say."""
    core = import_without_telemetry("openvino").Core()
    # By default it computes in bf16 wherever the machine can.
    model = core.compile_model(
        str(Path(setting.graph) / "model.onnx"),
        "CPU",
        {
            "INFERENCE_PRECISION_HINT": setting.options["hint"],
            "INFERENCE_NUM_THREADS": setting.threads,
            "PERFORMANCE_HINT": "LATENCY",
        },
    )
    names = [one.any_name for one in model.inputs]
    return scored(setting, names, lambda inputs: model(inputs)[0])
