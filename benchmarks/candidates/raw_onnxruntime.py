"""ONNX Runtime without a server, on the graph of our float32 artifact or its plain int8 version."""

from pathlib import Path

import onnxruntime as ort

from benchmarks.candidates.pairs import Pairs, arrays, calls
from benchmarks.protocol import Score, Setting, answer_lines


def load(setting: Setting) -> Score:
    """One row a call, or rows grouped by length as the options say."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = setting.threads
    session = ort.InferenceSession(
        str(Path(setting.graph) / "model.onnx"), options, providers=["CPUExecutionProvider"]
    )
    names = [one.name for one in session.get_inputs()]
    pairs = Pairs(setting)

    def score(query: str, passages: list[str]) -> list[float]:
        rows = pairs.encode(query, passages)
        found = [0.0] * len(rows)
        for call in calls(rows, grouped=setting.options["grouped"]):
            logits = session.run(None, arrays([rows[i] for i in call], names))[0]
            for index, logit in zip(call, logits.reshape(-1), strict=True):
                found[index] = float(logit)
        return found

    return score


if __name__ == "__main__":
    answer_lines(load)
