"""Models that fail on request: bare directories as NIM_CUSTOM_MODEL mounts them."""

import contextlib
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
from onnx import numpy_helper

from runtime.engines.mock import byte_tokenizer

NAN_TOKENS = 150
FAIL_TOKENS = 200
_TRIED = 1000
PROMPT = len("question:q \n \n passage:")

_GRAPH = """
<ir_version: 10, opset_import: ["": 20]>
counts (int64[batch, sequence] input_ids, int64[batch, sequence] attention_mask)
    => (float[batch, 1] logits)
<int64[1] axis = {{1}}, int64[2] square = {{{work}, {work}}},
 int64 none = {{0}}, float zero = {{0.0}}>
{{
    touched = Mul(input_ids, none)
    sum = Add(touched, attention_mask)
    count = ReduceSum<keepdims = 1>(sum, axis)
    scores = Gather(table, count)
    least = ReduceMin<keepdims = 0>(count)
    flat = Cast<to = 1>(least)
    matrix = Expand(flat, square)
    product = MatMul(matrix, matrix)
    largest = ReduceMax<keepdims = 0>(product)
    nothing = Mul(largest, zero)
    logits = Add(scores, nothing)
}}
"""


def write_model(directory: Path, *, work: int = 1) -> Path:
    """A model whose logit is the number of tokens (bytes of the prompt). Rows of NAN_TOKENS give
    NaN, longer ones than FAIL_TOKENS fail; every call multiplies two matrices of size `work`."""
    model = onnx.parser.parse_model(_GRAPH.format(work=work))
    table = np.arange(FAIL_TOKENS, dtype=np.float32)
    table[NAN_TOKENS] = np.nan  # the text format has no literal for it
    model.graph.initializer.append(numpy_helper.from_array(table, "table"))
    (directory / "tokenizer").mkdir(parents=True)
    byte_tokenizer().save(str(directory / "tokenizer" / "tokenizer.json"))
    onnx.save(model, str(directory / "model.onnx"))
    return directory


@contextlib.contextmanager
def counting_model(*, work: int = 1) -> Iterator[Path]:
    """`write_model` in a folder of its own, which is removed after the block."""
    with tempfile.TemporaryDirectory() as folder:
        yield write_model(Path(folder) / "model", work=work)


def work_of(seconds: float) -> int:
    """The size of two matrices whose product takes this long on this machine, at its fastest."""
    matrix = np.ones((_TRIED, _TRIED), dtype=np.float32)
    took = []
    for _ in range(5):
        began = time.monotonic()
        np.matmul(matrix, matrix)
        took.append(time.monotonic() - began)
    return int(_TRIED * (seconds / min(took)) ** (1 / 3))


def passage(tokens: int, mark: str = "") -> str:
    """A passage whose pair with the query "q" has this many tokens."""
    return mark.ljust(tokens - PROMPT, "x")
