"""A graph small enough to compute by hand, in the layout that NIM_CUSTOM_MODEL mounts."""

from pathlib import Path

import pytest
import tokenizers
from onnx import TensorProto, helper
from tokenizers import models, pre_tokenizers, processors

from tests.small_graphs import INPUTS, write_graph


@pytest.fixture
def bare_directory(tmp_path: Path) -> Path:
    """model.onnx (logit = sum of the real token ids / 100) and tokenizer/ (one token a byte)."""
    return write_bare_directory(tmp_path / "bare")


def write_bare_directory(directory: Path, *more_inputs: str, divisor: float = 100.0) -> Path:
    """Write such a directory; further inputs are added to the sum."""
    nodes = [helper.make_node("Mul", INPUTS, ["real"])]
    summed = "real"
    for name in more_inputs:
        nodes.append(helper.make_node("Add", [summed, name], [f"with_{name}"]))
        summed = f"with_{name}"
    nodes += [
        helper.make_node("Cast", [summed], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceSum", ["floats", "axis"], ["sum"], keepdims=1),
        helper.make_node("Div", ["sum", "divisor"], ["logits"]),
    ]
    constants = [
        helper.make_tensor("axis", TensorProto.INT64, [1], [1]),
        helper.make_tensor("divisor", TensorProto.FLOAT, [], [divisor]),
    ]
    return write_graph(directory, nodes, constants, (*INPUTS, *more_inputs))


@pytest.fixture
def pair_tokenizer() -> tokenizers.Tokenizer:
    """Words and BERT's pair layout: [CLS] query [SEP] passage [SEP] with type ids."""
    words = ["[CLS]", "[SEP]", "[UNK]", "a", "b", "c", "d", "e", "f"]
    tokenizer = tokenizers.Tokenizer(
        models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 0), ("[SEP]", 1)],
    )
    return tokenizer
