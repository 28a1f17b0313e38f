"""Pages for people: a ranking form at /, the documentation at /docs; and /openapi.json.

The pages are files of this package without external assets. Their content security policy allows
nothing else.
"""

from functools import cache
from importlib import resources
from typing import Any

from litestar import Controller, Response, get
from litestar.datastructures import State
from litestar.exceptions import NotFoundException
from litestar.params import FromPath

from server.nim_error import error_body
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


# The key in the application's state of what `server.openapi` wrote.
OPENAPI_DOCUMENT = "openapi_document"


class Pages(Controller):
    """The pages, which RERANK_UI=false turns off."""

    tags = ("Pages",)

    @get("/", media_type=_MEDIA_TYPES["html"])
    async def try_it(self) -> Response[bytes]:
        """The page to try a ranking."""
        return _page("index.html")

    @get("/docs", media_type=_MEDIA_TYPES["html"])
    async def docs(self) -> Response[bytes]:
        """This documentation as a page."""
        return _page("docs.html")

    @get("/page/{name:str}", media_type=_MEDIA_TYPES["css"], errors=(NotFoundException,))
    async def asset(self, name: FromPath[str]) -> Response[bytes]:
        """A script or style sheet of the pages."""
        return _page(name)


class OpenApi(Controller):
    """The document that describes every route."""

    tags = ("Pages",)

    @get("/openapi.json")
    async def openapi(self, state: State) -> Response[dict[str, Any]]:
        """This document."""
        return Response(state[OPENAPI_DOCUMENT])


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


OPENAPI = Surface(controllers=(OpenApi,), error_format=error_body, paths=())
PAGES = Surface(controllers=(Pages,), error_format=error_body, paths=())
