"""The OpenAPI document, made from the routes themselves.

A route says what it is where Litestar has a place for it: its path and parameters, its tag and its
media type. Its docstring is the summary and the description, its return annotation the type of the
reply. Its `opt` may have:

- `body`: the type of the JSON body, or a union;
- `errors`: the errors that it may raise beside those of reading a body, if not those of asking a
  model with the body; the error formats make statuses of them;
- `error_formats`: its error formats, if its path's is not the only one;
- `answers`: the statuses with the reply as the body, if not 200 alone.

examples.json has the examples, under one of a route's paths.
"""

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from http import HTTPStatus
from importlib import resources
from types import NoneType, UnionType
from typing import Any, cast, get_args, get_origin, get_type_hints

import msgspec
from litestar import Litestar, Response
from litestar.handlers import HTTPRouteHandler
from litestar.routes import HTTPRoute
from litestar.types import Scope

from runtime.version import version
from server.auth import OPEN_PATHS
from server.errors import (
    BODY_ERRORS,
    MODEL_ERRORS,
    AuthenticationRequired,
    ErrorFormat,
    Failure,
    status_of,
)
from server.settings import Settings

_REF = "#/components/schemas/{name}"
_UNDOCUMENTED = {"HEAD", "OPTIONS"}
_JSON = "application/json"
_TEXT = {"type": "string", "minLength": 1}
_Types = tuple[Any, ...]
_Schemas = dict[int, dict[str, Any]]


@dataclass(frozen=True)
class Operation:
    """One method on one path. `request`, `reply` and `error` are the alternative types of the
    bodies, none without a body. `parameters` are the path's, with an example each."""

    method: str
    path: str
    handler: HTTPRouteHandler
    error_formats: tuple[ErrorFormat, ...]
    summary: str
    description: str
    request: _Types
    reply: _Types
    error: _Types
    request_example: object
    reply_example: object
    parameters: Mapping[str, str]

    @property
    def tag(self) -> str:
        """What the operation is listed under."""
        return self.handler.resolve_tags()[0]

    def failures(self, settings: Settings) -> set[int]:
        """The statuses with an error body."""
        raised = [*self.handler.opt.get("errors", MODEL_ERRORS if self.request else ())]
        raised += BODY_ERRORS if self.request else ()
        if self.needs_key(settings):
            raised.append(AuthenticationRequired)
        return {
            error_format(Failure(status_of(kind, settings), "", kind=kind)).status
            for kind in raised
            for error_format in self.error_formats
        }

    def needs_key(self, settings: Settings) -> bool:
        """Whether the operation needs a bearer."""
        return bool(settings.keys) and self.path not in OPEN_PATHS


def operations(app: Litestar, error_format_of: Callable[[Scope], ErrorFormat]) -> list[Operation]:
    """The operations of `app`: tags in the order of its routes, sorted by path under each tag."""
    found = [
        _operation(method, route, handler, error_format_of)
        for route in app.routes
        if isinstance(route, HTTPRoute)
        for handler in route.route_handlers
        for method in sorted(handler.http_methods - _UNDOCUMENTED)
    ]
    tags = list(dict.fromkeys(op.tag for op in found))
    return sorted(found, key=lambda op: (tags.index(op.tag), op.path))


def document(listed: Sequence[Operation], settings: Settings) -> bytes:
    """The OpenAPI 3.1 document as JSON."""
    types = [t for op in listed for t in (*op.request, *op.reply, *op.error)]
    found, components = msgspec.json.schema_components(types, ref_template=_REF)
    # Keyed by identity, because not every type is hashable.
    schemas = {id(t): schema for t, schema in zip(types, found, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    for op in listed:
        paths.setdefault(op.path, {})[op.method.lower()] = _described(op, schemas, settings)
    body: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": "Open reranker and embedder", "version": version()},
        "paths": paths,
        "components": {"schemas": components},
    }
    if settings.keys:
        body["components"]["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
    return msgspec.json.encode(body)


def _operation(
    method: str,
    route: HTTPRoute,
    handler: HTTPRouteHandler,
    error_format_of: Callable[[Scope], ErrorFormat],
) -> Operation:
    opt = handler.opt
    formats = opt.get("error_formats") or (error_format_of(cast(Scope, {"path": route.path})),)
    summary, _, description = inspect.cleandoc(handler.fn.__doc__ or "").partition("\n\n")
    reply = get_type_hints(handler.fn)["return"]
    shown: dict[str, Any] = {}
    for path in handler.paths:
        shown |= _examples().get(path.replace(":str}", "}"), {})
    return Operation(
        method,
        route.path_format,
        handler,
        formats,
        summary=summary.removesuffix("."),
        description=" ".join(description.split()),
        request=_each(opt.get("body")),
        reply=_each(get_args(reply)[0] if get_origin(reply) is Response else reply),
        # The annotation of an error format names the type that its bytes are of.
        error=tuple(
            get_type_hints(f, include_extras=True)["return"].__metadata__[0] for f in formats
        ),
        request_example=shown.get("request"),
        reply_example=shown.get("reply"),
        parameters={name: shown["parameters"][name] for name in route.path_parameters},
    )


def _described(op: Operation, schemas: _Schemas, settings: Settings) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": re.sub(r"[/{}.-]", "_", f"{op.method.lower()}_{op.path[1:] or 'root'}"),
        "tags": [op.tag],
        "summary": op.summary,
        "responses": _responses(op, schemas, settings),
    }
    if op.description:
        described["description"] = op.description
    if op.parameters:
        described["parameters"] = [
            {"name": name, "in": "path", "required": True, "schema": _TEXT, "example": example}
            for name, example in op.parameters.items()
        ]
    if op.request:
        content = _content(op.request, op.request_example, schemas)
        described["requestBody"] = {"required": True, "content": {_JSON: content}}
    if op.needs_key(settings):
        described["security"] = [{"bearer": []}]
    return described


def _responses(op: Operation, schemas: _Schemas, settings: Settings) -> dict[str, Any]:
    media_type, answers = op.handler.media_type or _JSON, op.handler.opt.get("answers", (200,))
    responses = {}
    for status in sorted({*answers, *op.failures(settings)}):
        described: dict[str, Any] = {"description": HTTPStatus(status).phrase}
        if status == HTTPStatus.OK:
            described["description"] = "The answer"
        if status not in answers:
            described["content"] = {_JSON: _content(op.error, None, schemas)}
        elif op.reply:
            example = op.reply_example if status == HTTPStatus.OK else None
            described["content"] = {media_type: _content(op.reply, example, schemas)}
        responses[str(status)] = described
    return responses


def _content(types: _Types, example: object, schemas: _Schemas) -> dict[str, Any]:
    described = [schemas[id(t)] for t in types]
    content: dict[str, Any] = {
        "schema": described[0] if len(described) == 1 else {"anyOf": described}
    }
    if example is not None:
        content["example"] = example
    return content


def _each(body: Any) -> _Types:
    """The alternatives of a body: msgspec cannot describe a union of structs. Bytes are text."""
    if body in (None, NoneType):
        return ()
    if isinstance(body, UnionType):
        return get_args(body)
    return (str if body is bytes else body,)


@cache
def _examples() -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(
        resources.files("server").joinpath("examples.json").read_bytes()
    )
    return found
