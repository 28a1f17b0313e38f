"""Pages for people: a ranking form at /, the documentation at /docs; and /openapi.json.

The pages are files of this package without external assets. Their content security policy allows
nothing else.
"""

from functools import cache
from importlib import resources
from typing import Any

from litestar import Controller, Response, get
from litestar.di import NamedDependency
from litestar.exceptions import NotFoundException
from litestar.params import FromPath

from server.nim_error import NimError, error_body
from server.openapi import Operation
from server.surface import Surface

_HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-cache",
}
_MEDIA_TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
}
_HTML = _MEDIA_TYPES["html"]


class Pages(Controller):
    """The pages, which RERANK_UI=false turns off."""

    @get("/")
    async def try_it(self) -> Response[bytes]:
        """The page to try a ranking."""
        return _page("index.html")

    @get("/docs")
    async def docs(self) -> Response[bytes]:
        """The documentation of all routes."""
        return _page("docs.html")

    @get("/page/{name:str}")
    async def asset(self, name: FromPath[str]) -> Response[bytes]:
        """A script or style sheet of the pages."""
        return _page(name)


class OpenApi(Controller):
    """The document that describes every route."""

    @get("/openapi.json")
    async def openapi(self, openapi_document: NamedDependency[bytes]) -> Response[bytes]:
        """OpenAPI 3.1."""
        return Response(openapi_document, media_type="application/json")


@cache
def _files() -> dict[str, bytes]:
    """The files of the pages by name; no other file can be requested."""
    folder = resources.files("server").joinpath("page")
    return {entry.name: entry.read_bytes() for entry in folder.iterdir() if entry.is_file()}


def _page(name: str) -> Response[bytes]:
    content = _files().get(name)
    media_type = _MEDIA_TYPES.get(name.rpartition(".")[2])
    if content is None or media_type is None:
        raise NotFoundException
    return Response(content, media_type=media_type, headers=_HEADERS)


def _operation(path: str, summary: str, media_type: str, **more: Any) -> Operation:
    return Operation(
        method="GET",
        path=path,
        tag="Pages",
        summary=summary,
        media_type=media_type,
        **more,
    )


OPENAPI = Surface(
    controllers=(OpenApi,),
    operations=(
        _operation(
            "/openapi.json",
            "This document",
            "application/json",
            reply=dict,
            reply_example={"openapi": "3.1.0"},
        ),
    ),
    error_format=error_body,
    paths=(),
)
PAGES = Surface(
    controllers=(Pages,),
    operations=(
        _operation("/", "The page to try a ranking", _HTML, reply=str),
        _operation("/docs", "This documentation as a page", _HTML, reply=str),
        _operation(
            "/page/{name}",
            "A script or style sheet of the pages",
            "text/css; charset=utf-8",
            reply=str,
            error=NimError,
            statuses=(404,),
            parameters={"name": "page.css"},
        ),
    ),
    error_format=error_body,
    paths=(),
)
