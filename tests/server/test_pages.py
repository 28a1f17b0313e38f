"""The pages for people: files of our own under a strict policy; and what RERANK_UI turns off."""

import re
from importlib import resources

import httpx
import pytest

from tests.server.in_process import Serve

PAGES = ["/", "/docs"]
FILES = sorted(entry.name for entry in resources.files("server").joinpath("page").iterdir())


@pytest.mark.parametrize("path", [*PAGES, *(f"/page/{name}" for name in FILES)])
def test_pages_come_under_a_strict_policy(client: httpx.Client, path: str) -> None:
    response = client.get(path)
    assert response.status_code == 200
    policy = response.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "unsafe" not in policy
    assert response.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize("name", FILES)
def test_no_page_asks_anyone_else_for_anything(name: str) -> None:
    text = resources.files("server").joinpath("page", name).read_text("utf-8")
    assert not re.search(r"(https?:)?//[a-z]", text.replace("// ", "")), name
    assert not re.search(r"<script(?![^>]*\bsrc=)|\son\w+=|style=", text), name


def test_every_asset_that_a_page_names_is_there(client: httpx.Client) -> None:
    for path in PAGES:
        named = re.findall(r'(?:src|href)="(/[^"]*)"', client.get(path).text)
        assert named
        for found in named:
            assert client.get(found).status_code == 200, found


@pytest.mark.parametrize(
    "name", ["nothing.js", "..%2fpages.py", "../pages.py", "page.css%00", "__init__.py", "%2e%2e"]
)
def test_nothing_else_is_served(client: httpx.Client, name: str) -> None:
    assert client.get(f"/page/{name}").status_code == 404


def test_the_pages_can_be_turned_off(serve: Serve) -> None:
    server = serve({"ENABLE_MOCK_INFERENCE": "1", "RERANK_UI": "false"})
    for path in (*PAGES, "/page/page.css"):
        assert server.get(path).status_code == 404
    paths = server.get("/openapi.json").json()["paths"]
    assert "/v1/ranking" in paths
    assert not {"/", "/docs", "/page/{name}"} & set(paths)
