"""PyTorch without a server, one unpadded row a call: in float32 the reference for fidelity."""

from benchmarks.candidates.torch_model import TorchModel
from benchmarks.protocol import Score, Setting, answer


def load(setting: Setting) -> Score:
    """Scores row by row."""
    model = TorchModel(setting)
    return lambda query, passages: [model.score(query, [passage])[0] for passage in passages]


if __name__ == "__main__":
    answer(load)
