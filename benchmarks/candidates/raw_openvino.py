"""OpenVINO without a server, on the graph of our float32 artifact, its precision stated."""

from pathlib import Path

from benchmarks.candidates.pairs import Pairs, arrays, calls
from benchmarks.protocol import Score, Setting, answer_lines
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
    pairs = Pairs(setting)

    def score(query: str, passages: list[str]) -> list[float]:
        rows = pairs.encode(query, passages)
        found = [0.0] * len(rows)
        for call in calls(rows, grouped=setting.options["grouped"]):
            logits = model(arrays([rows[i] for i in call], names))[0]
            for index, logit in zip(call, logits.reshape(-1), strict=True):
                found[index] = float(logit)
        return found

    return score


if __name__ == "__main__":
    answer_lines(load)
