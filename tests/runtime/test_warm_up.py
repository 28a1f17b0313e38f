"""The first calls: on a GPU the largest goes first, and what does not fit is found out; everywhere
one is padded."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper
from tokenizers import Tokenizer

from runtime.batch import BatchLimits
from runtime.engines.mock import MockEngine
from runtime.errors import DeviceLost, EngineError, GoldenMismatch, OutOfMemory
from runtime.opening import mock_model, open_embedder, open_ranker
from runtime.profile import Kind
from runtime.ranker import Ranker
from runtime.requests import RankRequest
from tests.runtime.test_artifact import finish
from tests.small_graphs import write_embedding_directory, write_graph

Calls = list[tuple[int, int]]
compute = MockEngine.run


def on_gpu(monkeypatch: pytest.MonkeyPatch, room: int = 1 << 30) -> Calls:
    """Let the mock be on a GPU with memory for calls of `room` tokens; the calls it gets."""
    calls: Calls = []

    def run(self: MockEngine, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        calls.append(inputs["input_ids"].shape)
        if inputs["input_ids"].size > room:
            raise OutOfMemory
        return compute(self, inputs)

    monkeypatch.setattr(MockEngine, "run", run)
    monkeypatch.setattr(MockEngine, "device", "cuda:0")
    return calls


@pytest.mark.parametrize("kind", ["rank", "embed"])
@pytest.mark.parametrize(
    ("tokens", "rows"),
    # The budget of target cpu-fp32 is 1024 tokens.
    [(8192, 1), (512, 2), (100, 10), (16, 64)],
)
def test_the_largest_call_comes_first(
    monkeypatch: pytest.MonkeyPatch, kind: Kind, tokens: int, rows: int
) -> None:
    calls = on_gpu(monkeypatch)
    model = mock_model(kind, max_tokens=tokens)
    budget = model.info.token_budget
    model.warm_up()
    model.close()
    assert calls[0] == (max(1, min(64, budget // tokens)), tokens)
    assert calls[0][0] == rows
    assert all(np.prod(call) <= np.prod(calls[0]) for call in calls)


def test_batches_are_cut_to_what_fits_before_anybody_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls = on_gpu(monkeypatch, room=300)
    model = mock_model("rank", max_tokens=100)
    assert isinstance(model, Ranker)
    model.warm_up()
    refused = [call for call in calls if np.prod(call) > 300]
    assert refused
    model.rank(RankRequest("q", ["x" * (i + 1) for i in range(30)]))
    model.close()
    assert [call for call in calls if np.prod(call) > 300] == refused


def test_a_longest_row_without_memory_is_logged_and_the_others_are_served(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    on_gpu(monkeypatch, room=300)
    model = mock_model("rank", max_tokens=400)
    assert isinstance(model, Ranker)
    model.warm_up()
    assert "no memory for one row of 400 tokens" in caplog.text
    assert len(model.rank(RankRequest("q", ["short"])).logits) == 1
    with pytest.raises(OutOfMemory):
        model.rank(RankRequest("q", ["x" * 350]))
    model.close()


def test_a_lost_device_ends_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(*_: object) -> None:
        raise DeviceLost

    monkeypatch.setattr(MockEngine, "run", lost)
    monkeypatch.setattr(MockEngine, "device", "cuda:0")
    model = mock_model("rank")
    with pytest.raises(DeviceLost):
        model.warm_up()
    model.close()


def test_the_cpu_makes_no_large_call(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = on_gpu(monkeypatch)
    monkeypatch.setattr(MockEngine, "device", "cpu")
    model = mock_model("rank")
    model.warm_up()
    model.close()
    assert max(np.prod(call) for call in calls) < 200


Masks = list[np.ndarray]


def masks_of(monkeypatch: pytest.MonkeyPatch) -> Masks:
    """The attention masks that the mock is given."""
    masks: Masks = []

    def run(self: MockEngine, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        masks.append(inputs["attention_mask"])
        return compute(self, inputs)

    monkeypatch.setattr(MockEngine, "run", run)
    return masks


@pytest.mark.parametrize("kind", ["rank", "embed"])
def test_a_row_is_padded_beside_a_longer_one(monkeypatch: pytest.MonkeyPatch, kind: Kind) -> None:
    """However little padding batches allow, and on however many lanes."""
    monkeypatch.setattr(MockEngine, "lanes", 2)
    masks = masks_of(monkeypatch)
    model = mock_model(kind)
    model.set_limits(BatchLimits(max_rows=64, token_budget=1024, padding_waste=0.0))
    model.warm_up()
    model.close()
    padded = [mask for mask in masks if mask.min() == 0]
    assert [len(mask) for mask in padded] == [2]
    assert sorted(padded[0].mean(axis=1)) == [0.5, 1.0]


@pytest.mark.parametrize(("rows", "tokens"), [(1, 200), (64, 16)])
def test_where_no_call_has_two_rows_or_none_is_shorter_nothing_is_padded(
    monkeypatch: pytest.MonkeyPatch, rows: int, tokens: int
) -> None:
    masks = masks_of(monkeypatch)
    model = mock_model("rank", max_rows=rows, max_tokens=tokens)
    model.warm_up()
    model.close()
    assert all(mask.min() == 1 for mask in masks)


def test_requests_have_no_padding_row(monkeypatch: pytest.MonkeyPatch) -> None:
    model = mock_model("rank")
    assert isinstance(model, Ranker)
    model.warm_up()
    masks = masks_of(monkeypatch)
    model.rank(RankRequest("q", ["p"]))
    model.close()
    assert [len(mask) for mask in masks] == [1]


def graph_that_ignores_the_mask(directory: Path) -> Path:
    """Its logit is the mean of all ids of a row, padding included."""
    nodes = [
        helper.make_node("Add", ["input_ids", "attention_mask"], ["sum"]),
        helper.make_node("Sub", ["sum", "attention_mask"], ["ids"]),
        helper.make_node("Cast", ["ids"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "axis"], ["logits"], keepdims=1),
    ]
    return write_graph(directory, nodes, [helper.make_tensor("axis", TensorProto.INT64, [1], [1])])


def test_a_graph_that_ignores_the_mask_is_found_out(tmp_path: Path) -> None:
    directory = graph_that_ignores_the_mask(tmp_path / "rank")
    finish(directory)
    ranker = open_ranker(directory)
    with pytest.raises(GoldenMismatch, match="pads on the left with token 0"):
        ranker.warm_up()
    ranker.close()


def test_a_token_to_pad_with_that_only_the_tokenizer_has_is_found_out(tmp_path: Path) -> None:
    """The graph has fewer rows of weights than the tokenizer has tokens."""
    directory = write_embedding_directory(tmp_path / "embed", size=128)
    path = directory / "tokenizer" / "tokenizer.json"
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.add_special_tokens(["<pad>"])
    tokenizer.save(str(path))
    (directory / "tokenizer" / "tokenizer_config.json").write_text('{"pad_token": "<pad>"}')
    embedder = open_embedder(directory, profile="tiny-embed-v1")
    with pytest.raises(EngineError, match="with token 256"):
        embedder.warm_up()
    embedder.close()
