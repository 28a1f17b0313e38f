"""Making a model: it is whole before its threads start."""

import threading
from pathlib import Path

import pytest

from runtime import opening
from runtime.engines import Arrays, Outputs
from runtime.engines.mock import MockEngine
from runtime.errors import ImageNotAllowed
from runtime.opening import mock_model, open_model
from runtime.profile import Kind, load_target_profile
from runtime.ranker import Ranker
from runtime.requests import Passage, RankRequest


class Broken(Exception):
    """What a part raises that cannot be made."""


@pytest.fixture
def broken(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise Broken

    monkeypatch.setattr(request.param, fail)


PARTS = ["runtime.model.TokenizerPool", "runtime.forward.Forward.__init__"]


@pytest.mark.parametrize("broken", PARTS, indirect=True)
@pytest.mark.parametrize("kind", ["rank", "embed"])
@pytest.mark.usefixtures("broken")
def test_a_model_that_cannot_be_made_leaves_no_thread(kind: Kind) -> None:
    before = threading.enumerate()
    with pytest.raises(Broken):
        mock_model(kind)
    assert threading.enumerate() == before


@pytest.mark.parametrize("broken", PARTS, indirect=True)
@pytest.mark.usefixtures("broken")
def test_nor_does_one_that_takes_images(vision_artifact: Path) -> None:
    before = threading.enumerate()
    with pytest.raises(Broken):
        open_model(vision_artifact)
    assert threading.enumerate() == before


def test_a_text_model_refuses_images_by_their_place() -> None:
    ranker = mock_model("rank")
    assert isinstance(ranker, Ranker)
    with pytest.raises(ImageNotAllowed, match=r"passages\[1\]\.image is not taken"):
        ranker.rank(RankRequest("q", ["text", Passage(image=b"a file")]))
    ranker.close()


def test_a_model_prepares_as_many_calls_ahead_as_its_target_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """That of cuda-fp16-graphs is one; its calls are made by a thread that does nothing else."""
    target = load_target_profile("cuda-fp16-graphs")
    threads: list[str] = []
    compute = MockEngine.run

    def run(self: MockEngine, inputs: Arrays) -> Outputs:
        threads.append(threading.current_thread().name)
        return compute(self, inputs)

    monkeypatch.setattr(MockEngine, "run", run)
    before = set(threading.enumerate())
    plain = mock_model("rank")
    assert len(set(threading.enumerate()) - before) == 1
    plain.close()
    before = set(threading.enumerate())
    monkeypatch.setattr(opening, "load_target_profile", lambda _: target)
    ranker = mock_model("rank")
    made = sorted(thread.name for thread in set(threading.enumerate()) - before)
    assert made == ["engine-0", "scheduler-0", "scheduler-1"]
    assert isinstance(ranker, Ranker)
    ranker.rank(RankRequest("q", ["text"]))
    assert threads == ["engine-0"]
    ranker.close()
