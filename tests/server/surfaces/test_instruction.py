"""An instruction for a reranker whose prompt has a place for one, in the dialects that have it."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from tokenizers import AddedToken

from checks.faults.models import write_model
from runtime.errors import ServingError
from server.loading import open_served
from server.settings import read_settings
from tests.server.in_process import InProcess, in_process
from tests.small_graphs import write_graph
from tests.zoo import vocabularies

BODY = {"query": "why", "documents": ["because", "a passage"]}
PAIR = {"text_1": "why", "text_2": ["because", "a passage"]}
SENT = [("/rerank", BODY), ("/v1/rerank", BODY), ("/score", PAIR), ("/v1/score", PAIR)]
OWN = {"instruction": "Find the passage that explains it"}


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A graph that adds up the numbers of a row's tokens, and the prompt and special tokens of
    Qwen3-Reranker."""
    make = helper.make_node
    nodes = [
        make("Mul", ["input_ids", "attention_mask"], ["real"]),
        make("Cast", ["real"], ["numbers"], to=TensorProto.FLOAT),
        make("ReduceMean", ["numbers", "axis"], ["logits"], keepdims=1),
    ]
    axis = numpy_helper.from_array(np.asarray([1], np.int64), "axis")
    directory = write_graph(tmp_path_factory.mktemp("models") / "bare", nodes, [axis])
    vocabularies.qwen().save(str(directory / "tokenizer" / "tokenizer.json"))
    return {"NIM_CUSTOM_MODEL": str(directory), "RERANK_MODEL_PROFILE": "qwen3-reranker"}


@pytest.fixture(scope="module")
def server(settings: dict[str, str]) -> Iterator[InProcess]:
    with in_process(settings) as one:
        yield one


def tokens(text: str) -> int:
    return len(vocabularies.qwen().encode(" " + text)) - 1


def ask(server: InProcess, path: str, body: dict[str, Any], **more: Any) -> Any:
    response = server.http.post(path, json={**body, "use_activation": False, **more})
    assert response.status_code == 200, response.text
    return response.json()


def outcome(reply: Any) -> tuple[list[float], int]:
    """Scores and tokens."""
    items = reply.get("results") or reply["data"]
    scores = [item.get("relevance_score", item.get("score")) for item in items]
    return scores, reply["usage"]["total_tokens"]


@pytest.mark.parametrize(("path", "body"), SENT)
def test_a_request_brings_its_own_instruction(
    server: InProcess, path: str, body: dict[str, Any]
) -> None:
    default, own = (outcome(ask(server, path, body, **more)) for more in ({}, OWN))
    assert own[0] != default[0]
    usual = "Given a web search query, retrieve relevant passages that answer the query"
    # In each of two pairs.
    assert own[1] - default[1] == 2 * (tokens(OWN["instruction"]) - tokens(usual))
    assert outcome(ask(server, path, body, instruction=usual)) == default
    assert outcome(ask(server, path, body, instruction="")) == default


@pytest.mark.parametrize(("path", "body"), SENT)
def test_a_long_one_is_refused(server: InProcess, path: str, body: dict[str, Any]) -> None:
    response = server.http.post(path, json={**body, "instruction": "x" * 4097})
    assert response.status_code == 400
    assert "instruction" in response.text
    assert "xxx" not in response.text


def test_it_takes_a_share_of_the_querys_limit(server: InProcess) -> None:
    room = tokens(OWN["instruction"])
    most = {"max_tokens_per_query": room + 2, **OWN}
    whole = outcome(ask(server, "/v1/rerank", BODY, **OWN))[1]
    assert whole - outcome(ask(server, "/v1/rerank", BODY, **most))[1] == 2 * tokens("y")
    none_left = {**most, "max_tokens_per_query": room}
    response = server.http.post("/v1/rerank", json={**BODY, **none_left})
    assert response.status_code == 422


def test_one_that_is_left_out_leaves_no_words_around_it(settings: dict[str, str]) -> None:
    """mxbai-rerank-v2: `instruction: ` stands before one, and nothing where there is none."""
    with in_process({**settings, "RERANK_MODEL_PROFILE": "mxbai-rerank-v2"}) as server:
        none, empty, own = (
            outcome(ask(server, "/v1/rerank", BODY, **more))[1]
            for more in ({}, {"instruction": ""}, OWN)
        )
    assert none == empty
    line = vocabularies.qwen().encode(f"instruction: {OWN['instruction']}\n")
    assert own - none == 2 * len(line)


def test_the_nims_routes_ignore_it(server: InProcess) -> None:
    body = {"query": {"text": "why?"}, "passages": [{"text": "because"}]}
    replies = [server.http.post("/v1/ranking", json=body | more).json() for more in ({}, OWN)]
    assert replies[0] == replies[1]


@pytest.mark.parametrize(("setting", "more"), [("false", 1), ("true", 10)])
def test_special_tokens_of_a_passage_are_text_where_the_setting_says_so(
    settings: dict[str, str], setting: str, more: int
) -> None:
    """<|im_end|> ends a turn of the prompt; its letters are ten tokens here."""
    body = {"query": {"text": "why?"}, "passages": [{"text": "because<|im_end|>"}]}
    other = {"query": {"text": "why?"}, "passages": [{"text": "because"}]}
    with in_process({**settings, "RERANK_PLAIN_SPECIAL_TOKENS": setting}) as server:
        found, bare = (
            server.http.post("/v1/ranking", json=one).json()["usage"]["total_tokens"]
            for one in (body, other)
        )
    assert found - bare == more


def test_a_model_that_cannot_keep_them_apart_does_not_start(tmp_path: Path) -> None:
    directory = write_model(tmp_path / "bare")
    tokenizer = vocabularies.qwen()
    tokenizer.add_tokens([AddedToken("passage", lstrip=True)])
    tokenizer.save(str(directory / "tokenizer" / "tokenizer.json"))
    given = {"NIM_CUSTOM_MODEL": str(directory), "RERANK_PLAIN_SPECIAL_TOKENS": "true"}
    with pytest.raises(ServingError, match="RERANK_PLAIN_SPECIAL_TOKENS"):
        open_served(read_settings(given), None, directory)
