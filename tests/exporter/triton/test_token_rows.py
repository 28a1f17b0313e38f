"""The Python model that Triton loads, with a stand-in for the module that only Triton has.

`make check-triton` runs it in a real tritonserver.
"""

import importlib.util
import json
import shutil
import sys
import types
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import exporter.triton
from runtime.opening import open_ranker
from runtime.text import Encoding

IDS = np.asarray([[5, 6, 7, 8], [9, 10, 11, 12]], dtype=np.int64)
WHOLE = np.ones((2, 4), dtype=np.int64)


@dataclass
class Tensor:
    called: str
    values: np.ndarray

    def name(self) -> str:
        return self.called

    def as_numpy(self) -> np.ndarray:
        return self.values


class Request:
    def __init__(self, **arrays: np.ndarray) -> None:
        self._tensors = [Tensor(name, values) for name, values in arrays.items()]

    def inputs(self) -> list[Tensor]:
        return self._tensors

    def parameters(self) -> str:
        return ""


class TritonError(Exception):
    INTERNAL, INVALID_ARG, UNAVAILABLE = "internal", "invalid argument", "unavailable"


@dataclass
class Response:
    tensors: list[Tensor]
    error: TritonError | None = None


@pytest.fixture(scope="module")
def module() -> Iterator[Any]:
    name = "triton_python_backend_utils"
    stand_in = types.ModuleType(name)
    vars(stand_in).update(Tensor=Tensor, InferenceResponse=Response, TritonError=TritonError)
    sys.modules[name] = stand_in
    path = Path(exporter.triton.__file__).parent / "model.py"
    spec = importlib.util.spec_from_file_location("model_of_triton", path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    yield loaded
    del sys.modules[name]


@pytest.fixture
def model(
    module: Any, rank_artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Any]:
    shutil.copytree(rank_artifact, tmp_path / "artifact")
    monkeypatch.setattr(module, "__file__", str(tmp_path / "model.py"))
    one = module.TritonPythonModel()
    one.initialize({"model_config": json.dumps({"output": [{"name": "logits"}]})})
    yield one
    one.finalize()


def asked(model: Any, *requests: Request) -> list[np.ndarray | tuple[str, str]]:
    """Scores of each request, or its error's text and code."""
    return [
        found.tensors[0].values.reshape(-1) if found.error is None else found.error.args
        for found in model.execute(list(requests))
    ]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"attention_mask": np.asarray([[1, 1, 1, 1], [0, 0, 0, 0]])}, "row 1 has no token"),
        ({"attention_mask": np.zeros((2, 4), dtype=np.int64)}, "row 0 has no token"),
        ({"attention_mask": np.ones((2, 5), dtype=np.int64)}, "input_ids' shape"),
        ({"attention_mask": WHOLE, "token_type_ids": np.ones((1, 4))}, "input_ids' shape"),
        ({"input_ids": np.asarray([[5, 6, 7, 8], [9, 10, 1 << 20, 12]])}, "row 1 has an id"),
        ({"input_ids": np.asarray([[5, -1, 7, 8]])}, "row 0 has an id"),
        ({"input_ids": np.ones((1, 9000)), "attention_mask": np.ones((1, 9000))}, "exceeds"),
    ],
)
def test_rows_that_no_engine_computes_are_refused_and_others_are_not(
    model: Any, arrays: dict[str, np.ndarray], message: str
) -> None:
    good = Request(input_ids=IDS, attention_mask=WHOLE)
    (alone,) = asked(model, good)
    first, refused, last = asked(model, good, Request(**{"input_ids": IDS, **arrays}), good)
    assert message in refused[0]
    assert refused[1] == TritonError.INVALID_ARG
    for found in (first, last):
        np.testing.assert_allclose(found, alone, atol=1e-5)


def test_a_row_is_its_masked_tokens(model: Any, rank_artifact: Path) -> None:
    """Wherever the padding is, the score is that of the tokens alone."""
    padded = np.asarray([[0, 0, 5, 6, 7, 8], [9, 10, 11, 12, 0, 0]], dtype=np.int64)
    mask = (padded > 0).astype(np.int64)
    (found,) = asked(model, Request(input_ids=padded, attention_mask=mask))
    (without_mask,) = asked(model, Request(input_ids=IDS))
    ranker = open_ranker(rank_artifact)
    wanted = ranker.compute([Encoding(row, None) for row in IDS])
    ranker.close()
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    np.testing.assert_allclose(without_mask, wanted, atol=1e-5)


def test_texts_that_cannot_be_scored_are_refused(model: Any) -> None:
    texts = np.asarray([[b"\xff"]], dtype=np.object_)
    (refused,) = asked(model, Request(query=texts, passage=texts))
    assert refused[1] == TritonError.INVALID_ARG
