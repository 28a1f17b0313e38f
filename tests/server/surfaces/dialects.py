"""Requests of the rerank dialects."""

from typing import Any

import httpx

QUERY = "which one?"


TEXTS = ["first", "second, a little longer", "third"]


MAX_TOKENS = 200  # of the mock server, see conftest


DOCUMENTS = {"query": QUERY, "documents": TEXTS}


SIMPLE, V1, V2, SCORE, EMBED = "/rerank", "/v1/rerank", "/v2/rerank", "/score", "/embed"


TEI = {"query": QUERY, "texts": TEXTS}


def logits(client: httpx.Client, texts: list[str] = TEXTS, query: str = QUERY) -> list[float]:
    """What the NIM's surface says, in the order of the texts."""
    body = {"query": {"text": query}, "passages": [{"text": text} for text in texts]}
    rankings = client.post("/v1/ranking", json=body).json()["rankings"]
    return [r["logit"] for r in sorted(rankings, key=lambda r: r["index"])]


def good(client: httpx.Client, path: str, body: dict[str, Any]) -> Any:
    response = client.post(path, json=body)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "application/json"
    return response.json()


def assert_superset(response: httpx.Response, status: int) -> str:
    found = response.json()
    assert response.status_code == status, response.text
    assert set(found) == {"message", "detail", "error"}
    assert set(found["error"]) == {"message", "type", "code"}
    assert found["message"] == found["detail"] == found["error"]["message"]
    assert found["error"]["code"] == status
    return str(found["message"])


def assert_v2(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    assert set(response.json()) == {"message"}
    return str(response.json()["message"])


def assert_vllm(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error"}
    assert set(response.json()["error"]) == {"message", "type", "code"}
    return str(response.json()["error"]["message"])


def assert_tei(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    assert set(response.json()) == {"error", "error_type"}
    return str(response.json()["error"])
