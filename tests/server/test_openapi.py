"""The document describes every route, and its examples are what its types say."""

import re
from typing import Any

import httpx
import msgspec
import pytest
from litestar.routes import HTTPRoute

from server.openapi import Operation
from tests.server.described import APP, OPERATIONS
from tests.server.in_process import InProcess, Serve


def label(operation: Operation) -> str:
    return f"{operation.method} {operation.path}"


def test_every_route_is_described_and_nothing_else() -> None:
    routes = set()
    for route in APP.routes:
        assert isinstance(route, HTTPRoute)
        path = re.sub(r"\{(\w+):str\}", r"{\1}", route.path)
        routes |= {(method, path) for method in route.methods - {"OPTIONS", "HEAD"}}
    assert {(operation.method, operation.path) for operation in OPERATIONS} == routes
    assert len(OPERATIONS) == len(routes)


def test_the_document_is_served(client: httpx.Client) -> None:
    found = client.get("/openapi.json").json()
    assert found["openapi"] == "3.1.0"
    ids = [o["operationId"] for methods in found["paths"].values() for o in methods.values()]
    assert len(set(ids)) == len(ids) == len(OPERATIONS)
    assert "security" not in str(found["paths"]["/v1/ranking"])
    names = set(found["components"]["schemas"])
    assert set(re.findall(r"#/components/schemas/([\w.]+)", str(found))) <= names
    assert not [name for name in names if "." in name], "two types of one name"


def test_keys_are_documented(guarded: InProcess) -> None:
    headers = {"authorization": "Bearer key-one"}
    found = guarded.http.get("/openapi.json", headers=headers).json()
    ranking = found["paths"]["/v1/ranking"]["post"]
    assert ranking["security"] == [{"bearer": []}]
    assert "401" in ranking["responses"]
    assert "security" not in found["paths"]["/v1/health/ready"]["get"]


def test_every_operation_says_what_it_does() -> None:
    for operation in OPERATIONS:
        assert operation.summary, label(operation)
        assert not operation.summary.endswith("."), label(operation)


def test_statuses_are_those_of_the_settings(serve: Serve) -> None:
    """And those that the surface makes of them: TEI's 424 and 429, KServe's 400 for 422."""
    other = {"RERANK_OVERLOAD_STATUS": "429", "RERANK_TOO_LONG_STATUS": "400"}
    for given, wanted in (({}, {"422", "503"}), (other, {"429", "503"})):
        server = serve({"ENABLE_MOCK_INFERENCE": "1", **given})
        paths = server.get("/openapi.json").json()["paths"]
        statuses = {
            path: set(paths[path]["post"]["responses"]) for path in paths if "post" in paths[path]
        }
        assert statuses["/v1/ranking"] & {"422", "429", "503"} == wanted
        assert {"422", "424", "429", "503"} <= statuses["/embed"]
        assert "422" not in statuses["/v2/models/{model}/infer"]


@pytest.mark.parametrize("operation", OPERATIONS, ids=label)
def test_examples_are_of_their_types(operation: Operation) -> None:
    for example, body in (
        (operation.request_example, operation.request),
        (operation.reply_example, operation.reply),
    ):
        if example is not None:
            assert any(fits(example, kind) for kind in body), label(operation)
    assert bool(operation.request) == (operation.request_example is not None)
    if operation.tag != "Pages" or operation.path == "/openapi.json":
        assert bool(operation.reply) == (operation.reply_example is not None)


def fits(example: object, kind: Any) -> bool:
    try:
        msgspec.convert(example, kind)
    except msgspec.ValidationError:
        return False
    return True


@pytest.mark.parametrize(
    "operation", [o for o in OPERATIONS if o.request_example is not None], ids=label
)
def test_examples_of_requests_work(client: httpx.Client, operation: Operation) -> None:
    path = operation.path.format(**operation.parameters)
    response = client.request(operation.method, path, json=operation.request_example)
    assert response.status_code == 200, response.text
