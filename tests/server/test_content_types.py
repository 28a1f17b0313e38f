"""What a body may say that it is: JSON in UTF-8, or nothing; to KServe, as to Triton, anything."""

import json
from typing import Any

import httpx
import pytest

from tests.server.surfaces.kserve_requests import INFER, body

RANKED = {"query": "q", "documents": ["a", "b"]}
ROUTES: dict[str, Any] = {
    "/v1/ranking": {"query": {"text": "q"}, "passages": [{"text": "a"}]},
    "/v1/embeddings": {"input": ["a"], "input_type": "query"},
    "/rerank": {"query": "q", "texts": ["a", "b"]},
    "/v1/rerank": {"model": "any", **RANKED},
    "/v2/rerank": {"model": "any", **RANKED},
    "/score": {"text_1": "q", "text_2": ["a", "b"]},
    "/embed": {"inputs": ["a"], "prompt_name": "query"},
    "/tokenize": {"inputs": ["a"]},
}
# As FastAPI and axum read the type: what is written in JSON is JSON.
JSON = [
    None,
    "",
    "application/json",
    "APPLICATION/JSON; charset=utf-8",
    'application/json; x="y"; charset="UTF-8"',
    "application/json; charset='utf-8'",
    "application/json; charset=",
    'application/json; charset=""',
    "application/+json",
    "application/vnd.api+json",
]
OTHERS = [
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "text/plain",
    "text/json",
    "application/octet-stream",
    "application/jsonl",
    "application/json; charset=utf-16",
    "application/ld+json;charset=ISO-8859-1",
]


def status(client: httpx.Client, path: str, sent: Any, content_type: str | None) -> int:
    headers = {} if content_type is None else {"content-type": content_type}
    return client.post(path, content=json.dumps(sent).encode(), headers=headers).status_code


@pytest.mark.parametrize("path", list(ROUTES))
def test_json_is_taken_and_nothing_else(client: httpx.Client, path: str) -> None:
    sent = ROUTES[path]
    assert {name: status(client, path, sent, name) for name in JSON} == dict.fromkeys(JSON, 200)
    assert {name: status(client, path, sent, name) for name in OTHERS} == dict.fromkeys(OTHERS, 415)


@pytest.mark.parametrize("content_type", [*JSON, *OTHERS])
def test_triton_does_not_ask(client: httpx.Client, content_type: str | None) -> None:
    assert status(client, INFER, body(), content_type) == 200
    assert status(client, "/v2/repository/index", {}, content_type) == 200
