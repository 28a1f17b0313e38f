"""What each dialect says of wrong requests."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.in_process import InProcess, Serve
from tests.server.surfaces.dialects import (
    DOCUMENTS,
    EMBED,
    QUERY,
    SCORE,
    SIMPLE,
    TEI,
    V1,
    V2,
    assert_superset,
    assert_tei,
    assert_v2,
    assert_vllm,
    good,
)

ERROR_BODIES = {
    SIMPLE: assert_superset,
    V1: assert_superset,
    V2: assert_v2,
    SCORE: assert_vllm,
    "/v1/score": assert_vllm,
    EMBED: assert_tei,
    "/tokenize": assert_tei,
}


WRONG_DOCUMENTS: list[tuple[dict[str, Any], str]] = [
    ({"top_n": -1}, "top_n"),
    ({"top_n": "one"}, "top_n"),
    ({"top_n": 1.5}, "top_n"),
    ({"documents": []}, "documents"),
    ({"documents": {"a": "b"}}, "documents"),
    ({"documents": ["a", 1]}, "documents[1]"),
    ({"documents": ["a", None]}, "documents[1]"),
    ({"documents": [["a"]]}, "documents[0]"),
    ({"documents": ["a", ""]}, "documents[1]"),
    ({"documents": ["a"] * 65}, "RERANK_MAX_PASSAGES"),
    ({"documents": None}, "documents"),
    ({"query": ""}, "query"),
    ({"query": " \n"}, "query"),
    ({"query": None}, "query"),
    ({"query": {"text": "a"}}, "query"),
    ({"query": ["a"]}, "query"),
]


@pytest.mark.parametrize("path", [SIMPLE, V1, V2])
@pytest.mark.parametrize(("wrong", "named"), WRONG_DOCUMENTS)
def test_wrong_documents(
    client: httpx.Client, path: str, wrong: dict[str, Any], named: str
) -> None:
    message = ERROR_BODIES[path](client.post(path, json={**DOCUMENTS, **wrong}), 400)
    assert named in message


@pytest.mark.parametrize(
    ("path", "wrong", "named"),
    [
        (SIMPLE, {"documents": [{"title": "a"}]}, "documents[0]"),
        (SIMPLE, {"documents": [{"text": 5}]}, "documents[0]"),
        (SIMPLE, {"truncate": "MIDDLE"}, "truncate"),
        (SIMPLE, {"return_documents": "perhaps"}, "return_documents"),
        (SIMPLE, {"texts": ["a"]}, "`documents` and `texts`"),
        (SIMPLE, {"documents": None, "texts": None}, "documents"),
        # What a body may hold is counted before it is looked at.
        (SIMPLE, {"documents": [{"title": "a"}] * 65}, "RERANK_MAX_PASSAGES"),
        (V1, {"documents": [{"title": "a"}] * 65}, "RERANK_MAX_PASSAGES"),
        (V1, {"rank_fields": "title"}, "rank_fields"),
        (V1, {"rank_fields": ["year"], "documents": [{"year": 1999}]}, "documents[0]"),
        (V1, {"documents": [{"image": "https://a.example/b.png"}]}, "documents[0].image"),
        (SIMPLE, {"documents": ["a", {"content": []}]}, "documents[1].content"),
        (V2, {"max_tokens_per_doc": 0}, "max_tokens_per_doc"),
        # Cohere's own server reads no number out of a text, and 1 is its least.
        (V2, {"top_n": 0}, "top_n"),
        (V2, {"top_n": "2"}, "top_n"),
        (V2, {"top_n": True}, "top_n"),
        (V2, {"documents": [{"text": "a"}]}, "documents[0]"),
        (V2, {"documents": "text"}, "documents"),
    ],
)
def test_wrong_fields(client: httpx.Client, path: str, wrong: dict[str, Any], named: str) -> None:
    assert named in ERROR_BODIES[path](client.post(path, json={**DOCUMENTS, **wrong}), 400)


@pytest.mark.parametrize("top_n", [3, 4, 10**9])
@pytest.mark.parametrize("path", [SIMPLE, V1, V2])
def test_more_than_there_are_is_all(client: httpx.Client, path: str, top_n: int) -> None:
    assert len(good(client, path, {**DOCUMENTS, "top_n": top_n})["results"]) == 3


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ({}, "text_1"),
        ({"text_1": "a"}, "text_2"),
        ({"documents": ["a"]}, "queries"),
        ({"text_1": ["a", "b"], "text_2": ["c"]}, "text_2"),
        ({"text_1": ["a", "b"], "text_2": "c"}, "text_2"),
        ({"text_1": [], "text_2": ["c"]}, "text_2"),
        ({"text_1": "a", "text_2": []}, "text_2"),
        ({"text_1": "a", "text_2": [1]}, "text_2[0]"),
        ({"queries": "a", "items": None}, "documents"),
        ({"data_2": "a"}, "data_1"),
        ({"text_1": "a", "text_2": "b", "items": ["c"]}, "items"),
        ({"queries": "a", "documents": "b", "items": ["c"]}, "items"),
        ({"text_1": "a", "text_2": {"content": []}}, "text_2"),
        ({"text_1": "a", "text_2": ["c"] * 65}, "RERANK_MAX_PASSAGES"),
    ],
)
def test_wrong_scores(client: httpx.Client, body: dict[str, Any], named: str) -> None:
    assert named in assert_vllm(client.post(SCORE, json=body), 400)


def test_a_text_is_named_where_it_stands(client: httpx.Client) -> None:
    body = {"data_1": "a", "data_2": ["c", 1]}
    assert assert_vllm(client.post(SCORE, json=body), 400).startswith("data_2[1]: ")


@pytest.mark.parametrize(
    "body",
    [
        {"text_1": " ", "text_2": ["", "\u200b"]},
        {"text_1": ["a", ""], "text_2": ["", " "]},
        {"queries": [""], "items": ["", "b"]},
    ],
)
def test_blank_pairs_are_scored(client: httpx.Client, body: dict[str, Any]) -> None:
    assert len(good(client, SCORE, body)["data"]) == 2


@pytest.mark.parametrize(
    ("path", "inputs", "place"),
    [
        (path, inputs, place)
        for path in (EMBED, "/tokenize")
        for inputs, place in ((["a", ""], "inputs[1]"), ([""], "inputs[0]"), ("", "inputs"))
    ],
)
def test_an_input_is_named_where_it_stands(
    client: httpx.Client, path: str, inputs: str | list[str], place: str
) -> None:
    response = client.post(path, json={"inputs": inputs, "prompt_name": "query"})
    assert assert_tei(response, 400).startswith(f"{place}: ")


def test_what_is_missing_is_named_in_tei_s_words(client: httpx.Client) -> None:
    message = assert_tei(client.post(EMBED, json={"inputs": "abc"}), 422)
    assert message.startswith("prompt_name: ")
    assert message.endswith("query, passage, document")
    assert "input_type" not in message


@pytest.mark.parametrize(
    ("wrong", "status", "kind"),
    [
        ({"texts": []}, 400, "Empty"),
        ({"texts": ["a", 1]}, 422, "Validation"),
        ({"texts": "a"}, 422, "Validation"),
        ({"texts": ["x" * 300]}, 422, "Validation"),
        ({"texts": ["a"] * 65}, 422, "Validation"),
        ({"query": "", "texts": [""]}, 400, "Empty"),
        ({"truncation_direction": "up"}, 422, "Validation"),
        ({"raw_scores": "yes"}, 422, "Validation"),
    ],
)
def test_wrong_texts(client: httpx.Client, wrong: dict[str, Any], status: int, kind: str) -> None:
    response = client.post(SIMPLE, json={**TEI, **wrong})
    assert_tei(response, status)
    assert response.json()["error_type"] == kind


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        (EMBED, {"inputs": []}, 400),
        (EMBED, {"inputs": ["a"]}, 422),  # an asymmetric model without prompt_name
        (EMBED, {"inputs": [1, 2], "prompt_name": "query"}, 422),
        (EMBED, {"inputs": "a", "prompt_name": "poem"}, 422),
        (EMBED, {"inputs": "a", "prompt_name": "query", "normalize": False}, 422),
        (EMBED, {"inputs": "a", "prompt_name": "query", "dimensions": 0}, 422),
        (EMBED, {"inputs": "x" * 300, "prompt_name": "query"}, 422),
        ("/tokenize", {"inputs": []}, 400),
        ("/tokenize", {"inputs": [""]}, 400),
        ("/tokenize", {"inputs": [5]}, 422),
    ],
)
def test_wrong_inputs(client: httpx.Client, path: str, body: dict[str, Any], status: int) -> None:
    assert_tei(client.post(path, json=body), status)


@pytest.mark.parametrize("path", [SIMPLE, SCORE])
def test_too_long_has_the_nim_s_message(client: httpx.Client, path: str) -> None:
    body = {"query": QUERY, "documents": ["x" * 300]}
    if path == SCORE:
        body = {"text_1": QUERY, "text_2": ["x" * 300]}
    assert "exceeds maximum allowed token size" in ERROR_BODIES[path](
        client.post(path, json=body), 422
    )


@pytest.mark.parametrize("path", list(ERROR_BODIES))
@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b'"x"', b"null", b"\xff\xfe", b"[" * 5000])
def test_bodies_that_are_no_request(client: httpx.Client, path: str, raw: bytes) -> None:
    response = client.post(path, content=raw, headers={"content-type": "application/json"})
    ERROR_BODIES[path](response, 422 if ERROR_BODIES[path] is assert_tei else 400)


@pytest.mark.parametrize("path", list(ERROR_BODIES))
def test_other_methods_and_types_have_the_same_error_body(client: httpx.Client, path: str) -> None:
    ERROR_BODIES[path](client.get(path), 405)
    response = client.post(path, content=b"a=b", headers={"content-type": "text/plain"})
    ERROR_BODIES[path](response, 415)


@pytest.mark.parametrize("path", list(ERROR_BODIES))
def test_keys_are_asked_for_with_the_same_error_body(guarded: InProcess, path: str) -> None:
    ERROR_BODIES[path](guarded.http.post(path, json={}), 401)


def test_an_engine_that_fails_is_tei_s_backend(serve: Serve, bare_directory: Path) -> None:
    server = serve({"NIM_CUSTOM_MODEL": str(bare_directory)})
    text = "x" * 400  # longer than the table of the engine
    response = server.http.post(SIMPLE, json={"query": "q", "texts": [text]})
    assert_tei(response, 424)
    assert response.json()["error_type"] == "Backend"
    assert_superset(server.http.post(SIMPLE, json={"query": "q", "documents": [text]}), 500)
    assert server.http.post(SIMPLE, json=TEI).status_code == 200
