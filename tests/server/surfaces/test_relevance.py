"""A checkpoint that was saved with another activation than the sigmoid, in every dialect."""

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.in_process import InProcess, in_process
from tests.server.surfaces.test_one_score import LOGITS, RELEVANCES, TOLERANCE, results


@pytest.fixture(scope="module")
def server(rank_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[InProcess]:
    """The tiny Llama, as if it had been saved with Identity."""
    place = tmp_path_factory.mktemp("identity") / "rank"
    shutil.copytree(rank_artifact, place)
    manifest = json.loads((place / "manifest.json").read_bytes())
    (place / "manifest.json").write_text(json.dumps(manifest | {"activation": "identity"}))
    with in_process({"RERANK_MODEL_DIR": str(place)}) as one:
        yield one


@pytest.fixture(scope="module")
def logits(server: InProcess) -> list[float]:
    return LOGITS["nim"](server)


@pytest.mark.parametrize("dialect", [name for name in RELEVANCES if name != "tei"])
def test_a_relevance_is_the_logit(server: InProcess, logits: list[float], dialect: str) -> None:
    assert RELEVANCES[dialect](server) == pytest.approx(logits, abs=TOLERANCE)


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank"])
def test_use_activation_means_the_model_s(
    server: InProcess, logits: list[float], path: str
) -> None:
    found = results(path, use_activation=True)(server)
    assert found == pytest.approx(logits, abs=TOLERANCE)


def test_tei_knows_the_sigmoid_alone(server: InProcess, logits: list[float]) -> None:
    found = RELEVANCES["tei"](server)
    assert [math.log(p / (1 - p)) for p in found] == pytest.approx(logits, abs=TOLERANCE)
    assert LOGITS["tei raw"](server) == pytest.approx(logits, abs=TOLERANCE)
