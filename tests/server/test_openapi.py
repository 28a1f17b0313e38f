"""The document describes every route, and its examples are what its types say."""

import re
from typing import Any

import httpx
import msgspec
import pytest
from litestar.routes import HTTPRoute

from server.app import SURFACES, routed
from server.openapi import Operation
from server.service import Service
from server.settings import read_settings
from tests.server.in_process import InProcess

OPERATIONS = [operation for surface in SURFACES for operation in surface.operations]


def label(operation: Operation) -> str:
    return f"{operation.method} {operation.path}"


def alternatives(body: Any) -> tuple[Any, ...]:
    return body if isinstance(body, tuple) else (body,)


def test_every_route_is_described_and_nothing_else() -> None:
    controllers = [controller for surface in SURFACES for controller in surface.controllers]
    service = Service(read_settings({"ENABLE_MOCK_INFERENCE": "1"}))
    routes = set()
    for route in routed(controllers, service).routes:
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


@pytest.mark.parametrize("operation", OPERATIONS, ids=label)
def test_examples_are_of_their_types(operation: Operation) -> None:
    for example, body in (
        (operation.request_example, operation.request),
        (operation.reply_example, operation.reply),
    ):
        if example is not None:
            assert any(fits(example, kind) for kind in alternatives(body)), label(operation)
    assert (operation.request is None) == (operation.request_example is None)
    if operation.tag != "Pages" or operation.media_type == "application/json":
        assert (operation.reply is None) == (operation.reply_example is None)


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
