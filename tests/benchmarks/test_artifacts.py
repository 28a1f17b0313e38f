"""The graphs that candidates read."""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from benchmarks import plain_graph
from benchmarks.artifacts import PLAIN_FP32, PLAIN_INT8, prepare_graphs, with_sources
from benchmarks.models import MODELS


def test_plain_graphs_come_after_what_they_are_made_from() -> None:
    wanted = {PLAIN_INT8, "cpu-bf16"}
    assert with_sources(wanted) == ["cpu-bf16", "cpu-fp32", PLAIN_FP32, PLAIN_INT8]
    assert with_sources(["cpu-int8", "cpu-fp32"]) == ["cpu-fp32", "cpu-int8"]


@pytest.mark.heavy
def test_the_plain_graph_gives_our_scores_without_our_saving(
    tiny_bert_checkpoint: Path, exported: Callable[[Path], Path], tmp_path: Path
) -> None:
    artifact, plain = exported(tiny_bert_checkpoint), tmp_path / "plain"
    plain_graph.main(tiny_bert_checkpoint, "bert-cross-encoder", artifact, plain)
    row = np.arange(5, 21)[None]
    inputs = {
        "input_ids": row,
        "attention_mask": np.ones_like(row),
        "token_type_ids": np.zeros_like(row),
    }
    ours, theirs = (
        onnxruntime.InferenceSession(folder / "model.onnx") for folder in (artifact, plain)
    )
    np.testing.assert_allclose(theirs.run(None, inputs)[0], ours.run(None, inputs)[0], atol=1e-5)
    assert (plain / "tokenizer" / "tokenizer.json").is_file()


def test_nothing_is_made_after_the_time_limit() -> None:
    found = prepare_graphs(MODELS["embedded"], ["cpu-fp32", PLAIN_FP32], time.monotonic() - 1)
    assert found == {
        name: f"no graph {name}: the time limit was reached" for name in ("cpu-fp32", PLAIN_FP32)
    }
