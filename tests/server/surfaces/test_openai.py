"""POST /v1/embeddings: formats, types, dimensions, input types, and every kind of bad input."""

import base64
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
import pytest

from runtime.opening import mock_model
from runtime.postprocess import quantized, shorten
from runtime.requests import EmbedRequest
from server.names import AcceptedNames
from server.surfaces.openai import EmbeddingRequest, input_type_of
from tests.server.in_process import Serve

PATH = "/v1/embeddings"
MODEL = "nvidia/llama-nemotron-embed-1b-v2"
DIMENSIONS = 64  # of the mock
MAX_TOKENS = 200  # of the mock server, see conftest
TEXTS = ["one", "a second text", "ünï 𝔠ode"]


def post(client: httpx.Client, **body: Any) -> httpx.Response:
    return client.post(PATH, json={"input": TEXTS, "input_type": "passage", **body})


def vectors(response: httpx.Response, dtype: str = "float32") -> np.ndarray:
    assert response.status_code == 200, response.text
    items = response.json()["data"]
    assert [item["index"] for item in items] == list(range(len(items)))
    assert {item["object"] for item in items} == {"embedding"}
    return np.asarray([item["embedding"] for item in items], dtype=dtype)


def assert_error(response: httpx.Response, status: int, param: str | None) -> dict[str, Any]:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    found: dict[str, Any] = response.json()
    assert set(found) == {"object", "message", "detail", "type", "error"}
    assert set(found["error"]) == {"message", "type", "param", "code"}
    assert found["error"]["message"] == found["message"]
    assert found["error"]["param"] == param
    return found


@pytest.fixture(scope="module")
def wanted() -> Iterator[np.ndarray]:
    """What the runtime itself gives for TEXTS as passages."""
    model = mock_model("embed")
    yield model.embed(EmbedRequest(TEXTS, "passage")).vectors  # type: ignore[attr-defined]
    model.close()


def test_the_reply_is_the_nim_s(client: httpx.Client, wanted: np.ndarray) -> None:
    response = post(client, model=MODEL)
    found = response.json()
    assert list(found) == ["object", "data", "model", "usage"]
    assert (found["object"], found["model"]) == ("list", MODEL)
    tokens = sum(len(f"passage: {text}".encode()) for text in TEXTS)
    assert found["usage"] == {"prompt_tokens": tokens, "total_tokens": tokens}
    np.testing.assert_array_equal(vectors(response), wanted)
    np.testing.assert_allclose(np.linalg.norm(wanted, axis=1), 1, atol=1e-6)


def test_one_text_needs_no_list(client: httpx.Client, wanted: np.ndarray) -> None:
    np.testing.assert_array_equal(vectors(post(client, input=TEXTS[0])), wanted[:1])


def test_queries_and_passages_differ(client: httpx.Client, wanted: np.ndarray) -> None:
    assert not np.allclose(vectors(post(client, input_type="query")), wanted)


@pytest.mark.parametrize("name", [MODEL, "nvidia/llama-3.2-nv-embedqa-1b-v2"])
@pytest.mark.parametrize("given", [{}, {"input_type": None}, {"input_type": "passage"}])
def test_the_ending_of_the_name_is_an_input_type(
    client: httpx.Client, wanted: np.ndarray, name: str, given: dict[str, Any]
) -> None:
    model = f"{name}-passage"
    response = client.post(PATH, json={"input": TEXTS, "model": model, **given})
    np.testing.assert_array_equal(vectors(response), wanted)
    assert response.json()["model"] == model


def test_an_input_type_that_contradicts_the_name(client: httpx.Client) -> None:
    response = post(client, model=f"{MODEL}-query", input_type="passage")
    assert_error(response, 400, "input_type")


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("acme/long-passage", ("acme/long-passage", "query")),
        ("long-passage", ("long-passage", "query")),
        ("acme/long-passage-query", ("acme/long-passage", "query")),
        (None, (None, "query")),
    ],
)
def test_a_served_name_may_end_like_an_input_type(
    asked: str | None, found: tuple[str | None, str]
) -> None:
    body = msgspec.convert({"input": "a", "model": asked, "input_type": "query"}, EmbeddingRequest)
    assert input_type_of(body, AcceptedNames("acme/long-passage", "embed")) == found


def test_a_server_whose_name_ends_like_an_input_type(serve: Serve, embed_artifact: Path) -> None:
    name = "acme/long-passage"
    settings = {"EMBED_MODEL_DIR": str(embed_artifact), "NIM_SERVED_MODEL_NAME": name}
    server = serve(settings)
    body = {"input": TEXTS, "model": name}
    queries = vectors(server.http.post(PATH, json={**body, "input_type": "query"}))
    passages = vectors(server.http.post(PATH, json={**body, "input_type": "passage"}))
    assert not np.allclose(queries, passages)
    suffix = vectors(server.http.post(PATH, json={"input": TEXTS, "model": f"{name}-query"}))
    np.testing.assert_array_equal(suffix, queries)


def test_an_asymmetric_model_wants_an_input_type(client: httpx.Client) -> None:
    found = assert_error(client.post(PATH, json={"input": "a"}), 400, None)
    assert found["message"] == "'input_type' parameter is required for asymmetric models"


@pytest.mark.parametrize("model", [{}, {"model": None}])
def test_no_model_is_the_served_one(client: httpx.Client, model: dict[str, None]) -> None:
    assert post(client, **model).json()["model"] == MODEL


@pytest.mark.parametrize("model", ["", "other", "nvidia/llama-nemotron-rerank-1b-v2"])
def test_another_model_is_not_here(client: httpx.Client, model: str) -> None:
    assert_error(post(client, model=model), 404, None)


@pytest.mark.parametrize("spelling", [{}, {"encoding_format": None}, {"encoding_format": "float"}])
def test_float_is_the_default(
    client: httpx.Client, wanted: np.ndarray, spelling: dict[str, Any]
) -> None:
    np.testing.assert_array_equal(vectors(post(client, **spelling)), wanted)


@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("float", "<f4"), ("int8", "i1"), ("uint8", "u1"), ("binary", "i1"), ("ubinary", "u1")],
)
@pytest.mark.parametrize("dimensions", [None, 20])
def test_types_as_numbers_and_as_bytes(
    client: httpx.Client, wanted: np.ndarray, kind: Any, dtype: str, dimensions: int | None
) -> None:
    short = wanted if dimensions is None else shorten(wanted, dimensions)
    expected = quantized(short, kind)
    body = {"embedding_type": kind, "dimensions": dimensions}
    np.testing.assert_array_equal(vectors(post(client, **body), dtype), expected)
    items = post(client, **body, encoding_format="base64").json()["data"]
    raw = [np.frombuffer(base64.b64decode(item["embedding"]), dtype) for item in items]
    np.testing.assert_array_equal(np.stack(raw), expected)


@pytest.mark.parametrize("dimensions", [1, 16, DIMENSIONS - 1])
def test_fewer_dimensions_are_the_first_ones_made_unit(
    client: httpx.Client, wanted: np.ndarray, dimensions: int
) -> None:
    found = vectors(post(client, dimensions=dimensions))
    np.testing.assert_allclose(found, shorten(wanted, dimensions), rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)


@pytest.mark.parametrize("dimensions", [DIMENSIONS, DIMENSIONS + 1, 102400, 10**30])
def test_more_dimensions_than_there_are(
    client: httpx.Client, wanted: np.ndarray, dimensions: int
) -> None:
    np.testing.assert_array_equal(vectors(post(client, dimensions=dimensions)), wanted)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"dimensions": 0}, "dimensions"),
        ({"dimensions": -1}, "dimensions"),
        ({"dimensions": 16.5}, "dimensions"),
        ({"dimensions": "many"}, "dimensions"),
        ({"dimensions": [16]}, "dimensions"),
        ({"output_dimension": 0}, "output_dimension"),
        ({"output_dimension": 16, "dimensions": 8}, "output_dimension"),
        ({"output_dtype": "float16"}, "output_dtype"),
        ({"output_dtype": "int8", "embedding_type": "uint8"}, "output_dtype"),
        ({"task": "retrieval.query"}, "task"),
        ({"truncate_prompt_tokens": 0}, "truncate_prompt_tokens"),
        ({"truncate_prompt_tokens": -2}, "truncate_prompt_tokens"),
        ({"truncate_prompt_tokens": MAX_TOKENS + 1}, "truncate_prompt_tokens"),
        ({"truncate_prompt_tokens": "all"}, "truncate_prompt_tokens"),
        ({"truncation_side": "middle"}, "truncation_side"),
        ({"truncation_side": "LEFT"}, "truncation_side"),
        ({"truncate": "END", "truncation_side": "left"}, "truncation_side"),
        ({"truncate": "START", "truncation_side": "right"}, "truncation_side"),
        ({"add_special_tokens": "false"}, "add_special_tokens"),
        ({"use_activation": 0}, "use_activation"),
        ({"normalize": "maybe"}, "normalize"),
        ({"input_type": "document"}, "input_type"),
        ({"input_type": 1}, "input_type"),
        ({"encoding_format": "hex"}, "encoding_format"),
        ({"encoding_format": ["float"]}, "encoding_format"),
        ({"embedding_type": "float16"}, "embedding_type"),
        ({"truncate": "MIDDLE"}, "truncate"),
        ({"truncate": "end"}, "truncate"),
        ({"modality": "image"}, "modality"),
        ({"modality": ["text", "image"]}, "modality"),
        ({"input": []}, "input"),
        ({"input": [1, 2, 3]}, "input.0"),
        ({"input": [[1, 2], [3]]}, "input.0.0"),
        ({"input": ["a", 7]}, "input.1"),
        ({"input": ["a", None]}, "input.1"),
        ({"input": None}, "input"),
        ({"input": {"text": "a"}}, "input"),
        ({"input": ["a", " "]}, "input.1"),
        ({"input": ""}, "input"),
        ({"input": " "}, "input"),
        ({"input": [" "]}, "input.0"),
        ({"input": ["a"] * 31}, "input"),
        ({"model": 5}, "model"),
    ],
)
def test_bad_input_is_named(client: httpx.Client, body: dict[str, Any], param: str) -> None:
    assert_error(post(client, **body), 400, param)


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'"a"', b"\xff", b"{}", b"[" * 5000])
def test_bodies_that_are_no_request(client: httpx.Client, raw: bytes) -> None:
    response = client.post(PATH, content=raw, headers={"content-type": "application/json"})
    assert_error(response, 400, "input" if raw == b"{}" else None)


def test_token_ids_are_refused_with_advice(client: httpx.Client) -> None:
    found = assert_error(post(client, input=[[101, 102]]), 400, "input.0.0")
    assert "check_embedding_ctx_length=False" in found["message"]


def test_too_long(client: httpx.Client) -> None:
    text = "x" * MAX_TOKENS
    found = assert_error(post(client, input=text), 422, None)
    length = MAX_TOKENS + len("passage: ")
    sentence = f"Input length {length} exceeds maximum allowed token size {MAX_TOKENS}"
    assert found["message"] == sentence


@pytest.mark.parametrize("name", ["truncate", "truncation"])
def test_a_flag_says_whether_texts_are_cut(client: httpx.Client, name: str) -> None:
    """Jina's is called truncate, Voyage's truncation; its place is vLLM's truncation_side."""
    long = "a" * MAX_TOKENS + "b" * MAX_TOKENS
    cut = post(client, input=[long], **{name: True})
    assert np.array_equal(vectors(cut), vectors(post(client, input=["a" * 191])))
    assert cut.headers["x-truncated-passages"] == "1"
    start = post(client, input=[long], truncation_side="left", **{name: True})
    assert np.array_equal(vectors(start), vectors(post(client, input=["b" * 191])))
    assert_error(post(client, input=[long], **{name: False}), 422, None)
    assert_error(post(client, **{name: 2}), 400, name)


@pytest.mark.parametrize("truncate", [False, "NONE"])
def test_two_flags_that_differ_are_refused(client: httpx.Client, truncate: Any) -> None:
    assert_error(post(client, truncate=truncate, truncation=True), 400, "truncation")
    assert post(client, truncate=truncate, truncation="false").status_code == 200


@pytest.mark.parametrize(("truncate", "kept"), [("END", "a" * 191), ("START", "b" * 191)])
def test_texts_are_cut_on_one_side_and_counted(
    client: httpx.Client, truncate: str, kept: str
) -> None:
    long = "a" * 191 + "b" * 191
    response = post(client, input=["short", long], truncate=truncate)
    assert response.headers["x-truncated-passages"] == "1"
    np.testing.assert_array_equal(vectors(response)[1:], vectors(post(client, input=[kept])))


@pytest.mark.parametrize("tokens", [12, "12", 12.0])
@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ({}, "abc"),
        ({"truncate": "NONE"}, "abc"),
        ({"truncate": "START"}, "xyz"),
        ({"truncation_side": "left"}, "xyz"),
        ({"truncation_side": "left", "truncate": "START"}, "xyz"),
        ({"truncation_side": "left", "truncate": "NONE"}, "xyz"),
    ],
)
def test_texts_are_cut_at_so_many_tokens(
    client: httpx.Client, given: dict[str, str], kept: str, tokens: Any
) -> None:
    texts = ["abc and then xyz", "ab"]
    response = post(client, input=texts, truncate_prompt_tokens=tokens, **given)
    np.testing.assert_array_equal(vectors(response), vectors(post(client, input=[kept, "ab"])))
    assert response.headers["x-truncated-passages"] == "1"
    assert response.json()["usage"]["total_tokens"] == 12 + 11


def test_a_side_alone_cuts_nothing(client: httpx.Client) -> None:
    assert_error(post(client, input="x" * MAX_TOKENS, truncation_side="left"), 422, None)
    cut = post(client, input="x" * MAX_TOKENS, truncate_prompt_tokens=-1)
    assert cut.headers["x-truncated-passages"] == "1"


@pytest.mark.parametrize("size", [16, "16", 16.0])
@pytest.mark.parametrize("name", ["dimensions", "output_dimension"])
def test_sizes_by_either_name_and_as_pydantic_reads_them(
    client: httpx.Client, wanted: np.ndarray, name: str, size: Any
) -> None:
    found = vectors(post(client, **{name: size}))
    np.testing.assert_allclose(found, shorten(wanted, 16), rtol=1e-6)
    both = vectors(post(client, dimensions=16, output_dimension=size))
    np.testing.assert_array_equal(both, found)


@pytest.mark.parametrize("kind", ["int8", "uint8", "binary", "ubinary", "float"])
def test_types_by_their_other_name(client: httpx.Client, wanted: np.ndarray, kind: Any) -> None:
    found = vectors(post(client, output_dtype=kind))
    np.testing.assert_array_equal(found, quantized(wanted, kind))


def test_what_nvidia_documents_and_does_not_matter_here(
    client: httpx.Client, wanted: np.ndarray
) -> None:
    extra = {"user": "someone", "modality": ["text"], "truncate": None, "unknown": {"x": [1]}}
    np.testing.assert_array_equal(vectors(post(client, **extra)), wanted)


def test_the_server_tells_its_timing(client: httpx.Client) -> None:
    timing = post(client).headers["server-timing"]
    stages = ["read", "decode", "tokenize", "queue", "engine", "answer", "encode"]
    assert [part.split(";")[0] for part in timing.split(", ")] == stages


@pytest.mark.parametrize(("method", "status"), [("GET", 405), ("DELETE", 405)])
def test_other_methods_have_the_same_error_body(
    client: httpx.Client, method: str, status: int
) -> None:
    assert_error(client.request(method, PATH), status, None)


def test_many_requests_at_once_get_their_own_vectors(client: httpx.Client) -> None:
    texts = [f"text {number}" for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda text: post(client, input=text), texts))
    model = mock_model("embed")
    expected = model.embed(EmbedRequest(texts, "passage")).vectors  # type: ignore[attr-defined]
    model.close()
    np.testing.assert_array_equal(np.concatenate([vectors(reply) for reply in replies]), expected)


def test_a_request_may_be_as_large_as_allowed(serve: Serve) -> None:
    server = serve({"ENABLE_MOCK_INFERENCE": "1", "EMBED_MAX_INPUTS": "2000"})
    texts = [f"text {number}" for number in range(2000)]
    found = vectors(post(server.http, input=texts))
    assert found.shape == (2000, DIMENSIONS)
    assert len(np.unique(found, axis=0)) == 2000
    refused = assert_error(post(server.http, input=[*texts, "one more"]), 400, "input")
    assert "EMBED_MAX_INPUTS" in refused["message"]


def test_a_reranker_alone_embeds_nothing(serve: Serve, bare_directory: Path) -> None:
    server = serve({"NIM_CUSTOM_MODEL": str(bare_directory)})
    found = assert_error(post(server.http), 404, None)
    assert "--embed DIR" in found["message"]
