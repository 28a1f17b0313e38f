"""POST /v1/ranking: golden exchanges, limits, names, and every kind of bad input."""

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

GOLDEN = sorted((Path(__file__).parent.parent / "golden").glob("nim_*.json"))
MAX_TOKENS = 200  # of the mock server, see conftest
BODY_LIMIT_BYTES = 100_000
MODEL = "nvidia/llama-nemotron-rerank-1b-v2"
PATHS = (
    "/v1/ranking",
    "/v1/retrieval/nvidia/reranking",
    "/v1/retrieval/nvidia/llama-3_2-nv-rerankqa-1b-v2/reranking",
    "/v1/retrieval/nvidia/llama-nemotron-rerank-1b-v2/reranking",
)
JSON = {"content-type": "application/json"}


def body(*passages: str, query: str = "q", **more: Any) -> dict[str, Any]:
    return {"query": {"text": query}, "passages": [{"text": p} for p in passages], **more}


def assert_validation_error(response: httpx.Response, *location: str | int) -> None:
    assert response.status_code == 400, response.text
    assert response.headers["content-type"] == "application/json"
    found = response.json()
    assert set(found) == {"object", "message", "detail", "type"}
    assert (found["object"], found["type"]) == ("error", "request_validation_error")
    assert set(found["detail"]) == {"type", "loc", "msg"}
    assert found["detail"]["loc"] == ["body", *location]
    assert found["detail"]["msg"] in found["message"]


def assert_request_error(response: httpx.Response, status: int) -> None:
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    found = response.json()
    assert set(found) == {"object", "message", "error", "detail", "type"}
    assert (found["object"], found["type"]) == ("error", "invalid_request_error")
    assert found["message"] == found["error"]
    assert found["detail"] == {}


@pytest.mark.parametrize("file", GOLDEN, ids=lambda file: file.stem)
def test_golden_exchange(client: httpx.Client, file: Path) -> None:
    golden = json.loads(file.read_bytes())
    asked, wanted = golden["request"], golden["reply"]
    response = client.post(asked["path"], json=asked["body"])
    assert response.status_code == wanted["status"]
    assert response.json() == wanted["body"]
    for name, value in wanted["headers"].items():
        assert response.headers.get(name) == value


@pytest.mark.parametrize("path", PATHS)
def test_every_path_gives_the_same_answer(client: httpx.Client, path: str) -> None:
    asked = body("one", "two", "three")
    found = client.post(path, json=asked)
    assert found.status_code == 200
    assert found.json() == client.post("/v1/ranking", json=asked).json()


def test_rankings_descend_and_ties_keep_the_given_order(client: httpx.Client) -> None:
    found = client.post("/v1/ranking", json=body("same", "other", "same", "same")).json()
    logits = [r["logit"] for r in found["rankings"]]
    assert logits == sorted(logits, reverse=True)
    assert [r["index"] for r in found["rankings"] if r["index"] != 1] == [0, 2, 3]
    assert all(set(r) == {"index", "logit"} for r in found["rankings"])
    assert sorted(r["index"] for r in found["rankings"]) == [0, 1, 2, 3]


def test_usage_counts_the_query_once_for_every_passage(client: httpx.Client) -> None:
    tokens = len("question:q \n \n passage:ab") + len("question:q \n \n passage:c")
    usage = client.post("/v1/ranking", json=body("ab", "c")).json()["usage"]
    assert usage == {"prompt_tokens": tokens, "total_tokens": tokens}


@pytest.mark.parametrize(
    "name",
    [
        None,
        MODEL,
        "llama-nemotron-rerank-1b-v2",
        "nvidia/llama-3.2-nv-rerankqa-1b-v2",
        "nvidia/llama-3_2-nv-rerankqa-1b-v2",
        "llama-3_2-nv-rerankqa-1b-v2",
        "nvidia/llama-nemotron-rerank-500m-v2",
    ],
)
def test_accepted_names(client: httpx.Client, name: str | None) -> None:
    assert client.post("/v1/ranking", json=body("p", model=name)).status_code == 200


@pytest.mark.parametrize(
    "name",
    ["", "gpt", "../secret", "other/llama-nemotron-rerank-1b-v2", "a" * 9999, "x\n\x1b[31my"],
)
def test_other_names_are_unknown_and_not_echoed(client: httpx.Client, name: str) -> None:
    response = client.post("/v1/ranking", json=body("p", model=name))
    assert_request_error(response, 404)
    assert MODEL in response.json()["message"]
    assert not name or name not in response.json()["message"]


def test_the_name_in_the_path_counts_too(client: httpx.Client) -> None:
    response = client.post("/v1/retrieval/acme/gpt/reranking", json=body("p", model=MODEL))
    assert_request_error(response, 404)
    path = "/v1/retrieval/nvidia/llama-nemotron-rerank-1b-v2/reranking"
    assert_request_error(client.post(path, json=body("p", model="gpt")), 404)


def test_too_long_has_the_nim_s_message(client: httpx.Client) -> None:
    passage = "x" * 300
    tokens = len(f"question:q \n \n passage:{passage}")
    for truncate in ({}, {"truncate": "NONE"}, {"truncate": None}):
        response = client.post("/v1/ranking", json=body("fits", passage, **truncate))
        assert_request_error(response, 422)
        wanted = f"Input length {tokens} exceeds maximum allowed token size {MAX_TOKENS}"
        assert response.json()["message"] == wanted


@pytest.mark.parametrize("truncate", ["END", "START"])
def test_what_was_cut_is_counted_in_a_header(client: httpx.Client, truncate: str) -> None:
    asked = body("x" * 300, "fits", "y" * 300, truncate=truncate)
    response = client.post("/v1/ranking", json=asked)
    assert response.status_code == 200
    assert response.headers["x-truncated-passages"] == "2"


def test_nothing_cut_means_no_header(client: httpx.Client) -> None:
    response = client.post("/v1/ranking", json=body("fits", truncate="END"))
    assert "x-truncated-passages" not in response.headers


def test_as_many_passages_as_allowed_and_one_more(client: httpx.Client) -> None:
    found = client.post("/v1/ranking", json=body(*map(str, range(64)))).json()
    assert len(found["rankings"]) == 64
    response = client.post("/v1/ranking", json=body(*map(str, range(65))))
    assert_validation_error(response, "passages")
    assert "found 65 texts, wanted at most 64" in response.json()["message"]


def test_a_body_as_large_as_allowed_and_one_byte_more(client: httpx.Client) -> None:
    raw = json.dumps(body("p")).encode()
    exact = raw + b" " * (BODY_LIMIT_BYTES - len(raw))
    assert client.post("/v1/ranking", content=exact, headers=JSON).status_code == 200
    response = client.post("/v1/ranking", content=exact + b" ", headers=JSON)
    assert_request_error(response, 413)
    assert str(BODY_LIMIT_BYTES) in response.json()["message"]


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "application/json; charset=utf-8",
        'application/json;charset="UTF8"',
        "application/json ; Charset = US-ASCII",
        "Application/JSON;x=y",
        "application/vnd.api+json",
        "APPLICATION/problem+JSON; charset=utf-8; profile=x",
        None,
    ],
)
def test_json_by_any_header(client: httpx.Client, content_type: str | None) -> None:
    headers = {"content-type": content_type} if content_type else {}
    raw = json.dumps(body("p")).encode()
    assert client.post("/v1/ranking", content=raw, headers=headers).status_code == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/plain"},
        {"content-type": "application/x-www-form-urlencoded"},
        {"content-type": "multipart/form-data; boundary=x"},
        {"content-type": "application/x-ndjson"},
        {"content-type": "application/json+xml"},
        {"content-type": "text/json"},
        {"content-type": "json"},
        {"content-type": "application/json, text/plain"},
    ],
)
def test_anything_else_is_an_unsupported_type(
    client: httpx.Client, headers: dict[str, str]
) -> None:
    raw = json.dumps(body("p")).encode()
    assert_request_error(client.post("/v1/ranking", content=raw, headers=headers), 415)


@pytest.mark.parametrize("charset", ["iso-8859-1", "UTF-16", '"windows-1252"', "utf-8x"])
def test_another_charset_is_refused_by_name(client: httpx.Client, charset: str) -> None:
    headers = {"content-type": f"application/json; x=y; charset={charset}"}
    response = client.post("/v1/ranking", json=body("p"), headers=headers)
    assert_request_error(response, 415)
    assert "charset" in response.json()["message"]


MISFITS: list[tuple[dict[str, Any], tuple[str | int, ...]]] = [
    ({}, ("query",)),
    ({"query": {"text": "q"}}, ("passages",)),
    ({"query": "q", "passages": [{"text": "p"}]}, ("query",)),
    ({"query": {}, "passages": [{"text": "p"}]}, ("query", "text")),
    ({"query": {"text": 1}, "passages": [{"text": "p"}]}, ("query", "text")),
    ({"query": None, "passages": [{"text": "p"}]}, ("query",)),
    ({"query": {"text": "q"}, "passages": {"text": "p"}}, ("passages",)),
    ({"query": {"text": "q"}, "passages": ["p"]}, ("passages", 0)),
    ({"query": {"text": "q"}, "passages": [{"text": "p"}, {}]}, ("passages", 1, "text")),
    ({"query": {"text": "q"}, "passages": [{"text": None}]}, ("passages", 0, "text")),
    (body(), ("passages",)),
    (body("p", query=""), ("query", "text")),
    (body("p", query=" \n\t"), ("query", "text")),
    (body("p", "", "p"), ("passages", 1, "text")),
    (body("p", "\u2003"), ("passages", 1, "text")),
    (body("p", model=3), ("model",)),
    (body("p", truncate="end"), ("truncate",)),
    (body("p", truncate="MIDDLE"), ("truncate",)),
    (body("p", truncate=1), ("truncate",)),
    ({"query": {"text": "q"}, "passages": [{"image": "data:x"}]}, ("passages", 0, "image")),
    (
        {"query": {"text": "q", "image": "data:x"}, "passages": [{"text": "p"}]},
        ("query", "image"),
    ),
]


@pytest.mark.parametrize(("asked", "location"), MISFITS)
def test_misfits_are_located(
    client: httpx.Client, asked: dict[str, Any], location: tuple[str | int, ...]
) -> None:
    assert_validation_error(client.post("/v1/ranking", json=asked), *location)


SENT = b'{"query":{"text":"q"},"passages":[{"text":"p"}]'
UNREADABLE = {
    "empty": b"",
    "space": b"  ",
    "null": b"null",
    "array": b"[]",
    "string": b'"text"',
    "cut off": SENT,
    "trailing": SENT + b"} x",
    "bom": b"\xef\xbb\xbf" + SENT + b"}",
    "utf-16": (SENT + b"}").decode().encode("utf-16"),
    "invalid utf-8": b'{"query":{"text":"\xff"},"passages":[{"text":"p"}]}',
    "encoded surrogate": b'{"query":{"text":"\xed\xa0\x80"},"passages":[{"text":"p"}]}',
    "lone surrogate": b'{"query":{"text":"\\ud800"},"passages":[{"text":"p"}]}',
    "lone low surrogate": b'{"query":{"text":"\\udc00x"},"passages":[{"text":"p"}]}',
    "raw control character": b'{"query":{"text":"a\x01"},"passages":[{"text":"p"}]}',
    "nan": SENT + b',"x":NaN}',
    "infinity": SENT + b',"x":-Infinity}',
    "deep": SENT + b',"x":' + b"[" * 40_000 + b"]" * 40_000 + b"}",
    "deep objects": SENT + b',"x":' + b'{"a":' * 15_000 + b"1" + b"}" * 15_000 + b"}",
    "comment": SENT + b"/* */}",
}


@pytest.mark.parametrize("raw", UNREADABLE.values(), ids=UNREADABLE.keys())
def test_unreadable_bodies(client: httpx.Client, raw: bytes) -> None:
    response = client.post("/v1/ranking", content=raw, headers=JSON)
    assert response.status_code == 400, response.text
    assert response.json()["type"] == "request_validation_error"


@pytest.mark.parametrize(
    "raw",
    [
        SENT + b',"query":{"text":"other"}}',
        b'{"query":{"text":"q"},"passages":[{"text":"p"}],"t":"text","x":"\xff"}',
        SENT + b',"top_k":3,"x":1e400,"y":' + b"9" * 5000 + b"}",
        b'{"query":{"text":"query"},"passages":[{"text":"text"},{"text":"passages"}]}',
        b'{"query":{"text":"q","text_":1},"passages":[{"text":"p","title":"text"}]}',
    ],
)
def test_odd_but_valid_bodies(client: httpx.Client, raw: bytes) -> None:
    assert client.post("/v1/ranking", content=raw, headers=JSON).status_code == 200


def test_a_text_may_hold_nul(client: httpx.Client) -> None:
    """As texts taken out of PDF files do; tokenizers read it as any character."""
    response = client.post("/v1/ranking", json=body("p", "a\0b", query="q\0"))
    assert len(response.json()["rankings"]) == 2


@pytest.mark.parametrize("mark", ["Zq7secret", "<script>", "{query}"])
def test_the_input_is_never_echoed(client: httpx.Client, mark: str) -> None:
    attempts: list[dict[str, Any]] = [
        body(mark + "x" * 300),
        body("p", truncate=mark),
        body("p", model=mark),
        body("p", **{mark: 1}, query=" "),
        {"query": mark, "passages": []},
        {mark: mark},
        body(mark, " "),
    ]
    for attempt in attempts:
        response = client.post("/v1/ranking", json=attempt)
        assert 400 <= response.status_code < 500
        assert mark not in response.text
        assert mark not in str(response.headers)
        assert "Traceback" not in response.text


def test_a_wrong_method_and_a_wrong_path_have_the_same_error_body(client: httpx.Client) -> None:
    wrong_method = client.get("/v1/ranking")
    assert_request_error(wrong_method, 405)
    assert "POST" in wrong_method.headers["allow"]
    assert_request_error(client.post("/v1/no-such-route", json={}), 404)


def test_texts_that_look_like_the_template_or_special_tokens(client: httpx.Client) -> None:
    texts = [
        "{query} {passage}",
        "</s><|begin_of_text|>",
        "passage: \n \n passage:",
        "👩‍👩‍👧‍👦 שלום",
    ]
    found = client.post("/v1/ranking", json=body(*texts, query="{passage}"))
    assert found.status_code == 200
    assert len(found.json()["rankings"]) == len(texts)
