"""Text Embeddings Inference: what its router 1.9.3 takes, and what a server's default is for."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.in_process import InProcess, Serve

RERANK, EMBED, TOKENIZE = "/rerank", "/embed", "/tokenize"
QUERY, TEXTS = "which one?", ["first", "second, a little longer"]
DIMENSIONS = 64  # of the mock
BLANKS = [" ", "\n\t", "\u200b"]


def good(client: httpx.Client, path: str, **body: Any) -> Any:
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    return response.json()


def refused(client: httpx.Client, path: str, status: int, kind: str, **body: Any) -> str:
    response = client.post(path, json=body)
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error", "error_type"}
    assert response.json()["error_type"] == kind
    return str(response.json()["error"])


# Blank texts


@pytest.mark.parametrize("blank", ["", *BLANKS])
def test_one_text_of_a_pair_may_be_blank(client: httpx.Client, blank: str) -> None:
    found = good(client, RERANK, query=QUERY, texts=[*TEXTS, blank])
    assert sorted(rank["index"] for rank in found) == [0, 1, 2]
    assert len(good(client, RERANK, query=blank, texts=TEXTS)) == 2


@pytest.mark.parametrize("texts", [[""], ["a", ""], ["", ""]])
def test_a_pair_of_nothing_is_empty(client: httpx.Client, texts: list[str]) -> None:
    message = refused(client, RERANK, 400, "Empty", query="", texts=texts)
    assert message.startswith(f"texts[{texts.index('')}]: ")


@pytest.mark.parametrize("blank", BLANKS)
@pytest.mark.parametrize("other", ["", *BLANKS])
def test_a_pair_of_blanks_is_a_pair(client: httpx.Client, blank: str, other: str) -> None:
    assert len(good(client, RERANK, query=blank, texts=[other, "a"])) == 2
    assert len(good(client, RERANK, query=other, texts=[blank])) == 1


@pytest.mark.parametrize("path", [EMBED, TOKENIZE])
@pytest.mark.parametrize("blank", BLANKS)
def test_a_text_of_blanks_is_a_text(client: httpx.Client, path: str, blank: str) -> None:
    prompt = {"prompt_name": "query"} if path == EMBED else {}
    assert len(good(client, path, inputs=blank, **prompt)) == 1
    assert len(good(client, path, inputs=["a", blank], **prompt)) == 2


@pytest.mark.parametrize("path", [EMBED, TOKENIZE])
@pytest.mark.parametrize(("inputs", "place"), [("", "inputs"), (["a", ""], "inputs[1]")])
def test_a_text_of_nothing_is_empty(
    client: httpx.Client, path: str, inputs: Any, place: str
) -> None:
    assert refused(client, path, 400, "Empty", inputs=inputs).startswith(f"{place}: ")


def test_no_texts_are_empty(client: httpx.Client) -> None:
    assert "texts" in refused(client, RERANK, 400, "Empty", query=QUERY, texts=[])
    for path in (EMBED, TOKENIZE):
        assert "inputs" in refused(client, path, 400, "Empty", inputs=[])


def test_half_of_a_surrogate_pair_is_refused_with_tei_s_error_body(client: httpx.Client) -> None:
    body = rb'{"query":"q","texts":["\ud83d"]}'
    response = client.post(RERANK, content=body, headers={"content-type": "application/json"})
    assert response.status_code == 422
    assert response.json()["error_type"] == "Validation"
    assert "surrogate" in response.json()["error"]
    other = client.post(RERANK, content=body.replace(b"texts", b"documents"))
    assert other.status_code == 400
    assert "surrogate" in other.json()["message"]


# Values


@pytest.mark.parametrize("dimensions", [0, -1, DIMENSIONS + 1, 100_000, 10**30, "8", 8.0, True])
def test_dimensions_that_a_vector_has_not(client: httpx.Client, dimensions: Any) -> None:
    body = {"inputs": "a", "prompt_name": "query", "dimensions": dimensions}
    assert "dimensions" in refused(client, EMBED, 422, "Validation", **body)


@pytest.mark.parametrize("dimensions", [1, DIMENSIONS - 1, DIMENSIONS])
def test_dimensions_that_it_has(client: httpx.Client, dimensions: int) -> None:
    (found,) = good(client, EMBED, inputs="a", prompt_name="query", dimensions=dimensions)
    assert len(found) == dimensions


@pytest.mark.parametrize("direction", ["left", "Left", "right", "Right"])
def test_directions(client: httpx.Client, direction: str) -> None:
    body = {"query": QUERY, "texts": ["ab" * 200], "truncate": True}
    assert len(good(client, RERANK, **body, truncation_direction=direction)) == 1


@pytest.mark.parametrize(
    ("path", "field", "value"),
    [
        (RERANK, "truncation_direction", "LEFT"),
        (RERANK, "truncation_direction", "middle"),
        (RERANK, "truncation_direction", 1),
        (RERANK, "truncate", "true"),
        (RERANK, "truncate", 1),
        (RERANK, "raw_scores", "true"),
        (RERANK, "raw_scores", None),
        (RERANK, "return_text", 0),
        (EMBED, "normalize", "true"),
        (EMBED, "normalize", False),
        (EMBED, "prompt_name", "poem"),
        (EMBED, "prompt_name", 5),
        (EMBED, "truncation_direction", "lefT"),
        (EMBED, "inputs", 5),
        (EMBED, "inputs", {"text": "a"}),
        (TOKENIZE, "add_special_tokens", "false"),
        (TOKENIZE, "inputs", [["a"]]),
        (TOKENIZE, "prompt_name", "query"),  # of a reranker
    ],
)
def test_wrong_values_are_named(client: httpx.Client, path: str, field: str, value: Any) -> None:
    body = {"query": QUERY, "texts": TEXTS} if path == RERANK else {"inputs": "a"}
    assert field in refused(client, path, 422, "Validation", **{**body, field: value})


@pytest.mark.parametrize("ids", [[1, 2], [[1, 2], [3]], ["a", [1]]])
def test_token_ids_are_refused_by_name(client: httpx.Client, ids: Any) -> None:
    message = refused(client, EMBED, 422, "Validation", inputs=ids, prompt_name="query")
    assert message.startswith("inputs")
    assert "token ids are not taken" in message


def test_unknown_fields_are_ignored(client: httpx.Client) -> None:
    body = {"inputs": "a", "prompt_name": "query"}
    more = {"encoding_format": "float", "model": "x", "return_tokens": True}
    assert good(client, EMBED, **body, **more) == good(client, EMBED, **body)


@pytest.mark.parametrize("truncate", [True, False, None])
def test_a_long_text_is_embedded_where_truncation_is_asked_for(
    client: httpx.Client, truncate: bool | None
) -> None:
    body = {"inputs": "a" * 191 + "b" * 191, "prompt_name": "passage", "truncate": truncate}
    if truncate:
        kept = good(client, EMBED, inputs="a" * 191, prompt_name="passage")
        assert good(client, EMBED, **body) == kept
    else:
        assert "maximum allowed" in refused(client, EMBED, 422, "Validation", **body)


# What texts are where nothing says it


@pytest.fixture
def passages(serve: Serve) -> InProcess:
    return serve({"ENABLE_MOCK_INFERENCE": "1", "EMBED_DEFAULT_INPUT_TYPE": "passage"})


def test_a_default_for_tei_s_clients(client: httpx.Client, passages: InProcess) -> None:
    wanted = good(client, EMBED, inputs=TEXTS, prompt_name="passage")
    assert good(passages.http, EMBED, inputs=TEXTS, truncate=True) == wanted
    assert good(passages.http, EMBED, inputs=TEXTS, prompt_name=None) == wanted
    found = good(passages.http, EMBED, inputs=TEXTS, prompt_name="query")
    assert found == good(client, EMBED, inputs=TEXTS, prompt_name="query") != wanted


def test_a_default_for_openai_s_clients(client: httpx.Client, passages: InProcess) -> None:
    path, model = "/v1/embeddings", "nvidia/llama-nemotron-embed-1b-v2"
    wanted = good(client, path, input=TEXTS, input_type="passage")["data"]
    assert good(passages.http, path, input=TEXTS, model=model)["data"] == wanted
    for given in ({"input_type": "query"}, {"model": f"{model}-query"}):
        assert good(passages.http, path, input=TEXTS, **given)["data"] != wanted


def test_a_default_over_kserve(client: httpx.Client, passages: InProcess) -> None:
    path = "/v2/models/nvidia_llama_nemotron_embed_1b_v2/infer"
    tensor = {"name": "text", "shape": [1], "datatype": "BYTES", "data": ["one"]}
    query, passage = (
        good(client, path, inputs=[tensor], parameters={"input_type": kind})
        for kind in ("query", "passage")
    )
    assert good(client, path, inputs=[tensor]) == query  # the NIM's
    assert good(passages.http, path, inputs=[tensor]) == passage
    given = {"inputs": [tensor], "parameters": {"input_type": "query"}}
    assert good(passages.http, path, **given) == query


# Tokens


@pytest.mark.parametrize("default", [{}, {"EMBED_DEFAULT_INPUT_TYPE": "query"}])
def test_an_embedder_s_prompt_is_tokenized_with_the_text(
    serve: Serve, embed_artifact: Path, default: dict[str, str]
) -> None:
    client = serve({"EMBED_MODEL_DIR": str(embed_artifact), **default}).http
    given = {} if default else {"prompt_name": "query"}
    texts = ["roads", " "]
    found = good(client, TOKENIZE, inputs=texts, **given)
    plain = serve({"EMBED_MODEL_DIR": str(embed_artifact)}).http
    assert found == good(plain, TOKENIZE, inputs=[f"query: {text}" for text in texts])
    assert found != good(client, TOKENIZE, inputs=texts, prompt_name="passage")
    with_ends, bare = (
        good(plain, TOKENIZE, inputs="roads", add_special_tokens=flag)[0] for flag in (True, False)
    )
    assert len(with_ends) > len(bare)
    refused(client, TOKENIZE, 422, "Validation", inputs="a", prompt_name="poem")


def test_info_has_tei_s_fields(client: httpx.Client) -> None:
    found = client.get("/info").json()
    assert found["served_model_name"] == found["model_id"]
    assert found["max_batch_requests"] >= 1
    assert found["sha"] is found["docker_label"] is None
