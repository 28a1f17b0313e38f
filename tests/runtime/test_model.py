"""Making a model: it is whole before its threads start."""

import threading
from pathlib import Path

import pytest

from runtime.errors import ImageNotAllowed
from runtime.opening import mock_model, open_model
from runtime.profile import Kind
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
