"""Bearer keys: every route asks but health, whatever is mounted later."""

import re
from typing import Any

import httpx
import pytest
from litestar.routes import HTTPRoute

from checks.ports import free_port
from server.app import METRICS_ROUTES, SURFACES, routed
from server.auth import OPEN_PATHS
from server.service import Service
from server.settings import read_settings
from tests.server.conftest import GUARDED
from tests.server.in_process import InProcess, Serve
from tests.waiting import PATIENCE_S


def route_paths(routes: list[Any]) -> list[tuple[str, str]]:
    """Method and a concrete path of every route."""
    found = []
    service = Service(read_settings({"ENABLE_MOCK_INFERENCE": "1"}))
    for route in routed(routes, service).routes:
        assert isinstance(route, HTTPRoute)
        path = re.sub(r"\{\w+:str\}", "m", route.path)
        found += [(method, path) for method in route.methods - {"OPTIONS"}]
    return sorted(found)  # the router keeps its paths in a set


ALL = route_paths([controller for surface in SURFACES for controller in surface.controllers])
UNKNOWN = [("GET", "/redoc"), ("POST", "/v1/nothing"), ("DELETE", "/v1/ranking")]
SNEAKY = [
    ("POST", "//v1/ranking"),
    ("POST", "/v1/health/../ranking"),
    ("POST", "/health/../v1/ranking"),
    ("POST", "/v1/ranking/"),
    ("GET", "/v1/health/live/../../models"),
    ("GET", "/v1/models?x=/health"),
]
REFUSED_HEADERS = [
    [],
    [("authorization", "")],
    [("authorization", "Bearer")],
    [("authorization", "Bearer wrong")],
    [("authorization", "Bearer key-on")],
    [("authorization", "Bearer key-one-more")],
    [("authorization", "Basic key-one")],
    [("authorization", "key-one")],
    [("authorization", "Bearer **********")],
    [("authorization", "Bearer key-one"), ("authorization", "Bearer key-one")],
    [("authorization", "Bearer " + "x" * 30_000)],
    [("authorization", b"Bearer \xff\xfe")],
    [("x-api-key", "key-one")],
]


def assert_asks_for_a_key(response: httpx.Response) -> None:
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    if response.request.method == "HEAD":
        return
    assert "Authorization: Bearer" in response.text
    assert "key-one" not in response.text


@pytest.mark.parametrize(("method", "path"), [r for r in ALL if r[1] not in OPEN_PATHS])
def test_every_route_asks(guarded: InProcess, method: str, path: str) -> None:
    assert_asks_for_a_key(guarded.http.request(method, path))


@pytest.mark.parametrize(("method", "path"), UNKNOWN + SNEAKY)
def test_so_do_unknown_routes_and_odd_spellings(guarded: InProcess, method: str, path: str) -> None:
    request = guarded.http.build_request(method, "/")
    request.url = request.url.copy_with(raw_path=path.encode())
    assert_asks_for_a_key(guarded.http.send(request))


@pytest.mark.parametrize(("method", "path"), [r for r in ALL if r[1] in OPEN_PATHS])
def test_health_is_open(guarded: InProcess, method: str, path: str) -> None:
    assert guarded.http.request(method, path).status_code == 200


def test_every_open_path_is_a_route() -> None:
    assert {path for _, path in ALL} >= OPEN_PATHS


def test_the_metrics_port_asks_as_well(serve: Serve) -> None:
    port = free_port()
    serve({**GUARDED, "NIM_TRITON_METRICS_PORT": str(port)})
    ((method, path),) = route_paths(METRICS_ROUTES)
    url = f"http://127.0.0.1:{port}{path}"
    assert_asks_for_a_key(httpx.request(method, url, timeout=PATIENCE_S))
    key = {"authorization": "Bearer key-one"}
    assert httpx.request(method, url, headers=key, timeout=PATIENCE_S).status_code == 200


@pytest.mark.parametrize("headers", REFUSED_HEADERS)
def test_what_is_no_key(guarded: InProcess, headers: list[tuple[str, str]]) -> None:
    assert_asks_for_a_key(guarded.http.get("/v1/models", headers=headers))


@pytest.mark.parametrize(
    "value", ["Bearer key-one", "bearer key-one", "BEARER  key-one", "Bearer key-zwei-ü"]
)
def test_what_is_a_key(guarded: InProcess, value: str) -> None:
    headers = {"authorization": value.encode()}
    response = guarded.http.get("/v1/models", headers=headers)
    assert response.status_code == 200


def test_without_the_setting_any_placeholder_is_welcome(client: httpx.Client) -> None:
    for value in ("Bearer **********", "Bearer NO_API_KEY_PROVIDED", "nonsense"):
        response = client.get("/v1/models", headers={"authorization": value})
        assert response.status_code == 200


def test_keys_are_in_no_line_of_the_log(
    guarded: InProcess, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    for key in (GUARDED["NGC_API_KEY"], "key-of-somebody"):
        guarded.http.get("/v1/models", headers={"authorization": f"Bearer {key}"})
    assert "GET other 401" in caplog.text
    assert "key-" not in caplog.text
