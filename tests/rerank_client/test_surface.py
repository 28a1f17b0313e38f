"""The NIM's contract: the request to /v1/ranking and the parsing of its reply."""

import json

import pytest

from rerank_client import RerankError, nim
from rerank_client.answer import MakesNoSense
from rerank_client.question import question
from rerank_client.target import find_target


def test_a_nim_is_asked_at_its_own_path() -> None:
    target = find_target("http://host:8000/", None, nim())
    assert target.url == "http://host:8000/v1/ranking"


def test_the_body_is_the_nims() -> None:
    body = nim("nvidia/some-ranker", truncate="END").encode(question("q", ["a", "b"], 1))
    assert json.loads(body) == {
        "model": "nvidia/some-ranker",
        "query": {"text": "q"},
        "passages": [{"text": "a"}, {"text": "b"}],
        "truncate": "END",
    }


def test_an_unnamed_model_is_not_sent() -> None:
    assert "model" not in json.loads(nim().encode(question("q", ["a"], None)))


def test_a_model_that_is_not_unicode_is_an_error() -> None:
    with pytest.raises(RerankError, match="a text of the surface is not valid Unicode"):
        nim("half \ud83d").encode(question("q", ["a"], None))


def test_logits_come_back_in_the_order_of_the_documents() -> None:
    body = b'{"rankings":[{"index":1,"logit":2.5},{"index":0,"logit":-1.0}],"usage":{}}'
    result = nim().read(body, 2, 1)
    assert result.scores == [-1.0, 2.5]
    assert result.ranked_indices == [1]


@pytest.mark.parametrize(
    "body",
    [
        b"no JSON",
        b'{"scores":[1.0]}',
        b'{"rankings":[{"index":0,"logit":1.0}]}',
        b'{"rankings":[{"index":0,"logit":1.0},{"index":0,"logit":1.0}]}',
        b'{"rankings":[{"index":0,"logit":1.0},{"index":2,"logit":1.0}]}',
    ],
)
def test_a_reply_that_ranks_something_else_makes_no_sense(body: bytes) -> None:
    with pytest.raises(MakesNoSense):
        nim().read(body, 2, None)
