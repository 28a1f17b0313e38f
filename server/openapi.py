"""The OpenAPI document, made from what each surface declares about its operations.

Bodies are read and written as bytes here, so the framework sees no types; each surface names its
structs instead, and msgspec turns them into schemas.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import msgspec

_REF = "#/components/schemas/{name}"
JSON = "application/json"


@dataclass(frozen=True, kw_only=True)
class Operation:
    """One method on one path, as a reader of the documentation needs it.

    `request` and `reply` are types that msgspec can describe, None for no body. `error` is the
    surface's error body and `statuses` all that it may answer with besides 200. `parameters` are
    path parameters, each with an example. `open` routes never ask for a key.
    """

    method: str
    path: str
    tag: str
    summary: str
    description: str = ""
    request: Any = None
    request_example: object = None
    reply: Any = None
    reply_example: object = None
    error: Any = None
    statuses: tuple[int, ...] = ()
    parameters: Mapping[str, str] = field(default_factory=dict)
    media_type: str = JSON
    open: bool = False


def document(operations: Iterable[Operation], *, title: str, version: str, keys: bool) -> bytes:
    """The document as JSON, OpenAPI 3.1; `keys` says whether bearers are asked for."""
    listed = list(operations)
    types = [t for op in listed for t in (op.request, op.reply, op.error) if t is not None]
    schemas, components = msgspec.json.schema_components(types, ref_template=_REF)
    # Types such as dict[str, int] cannot be dictionary keys by value; their places can.
    schema_of = {id(t): schema for t, schema in zip(types, schemas, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    for op in listed:
        described = _operation(op, schema_of, keys=keys and not op.open)
        paths.setdefault(op.path, {})[op.method.lower()] = described
    body: dict[str, Any] = {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version},
        "paths": paths,
        "components": {"schemas": components},
    }
    if keys:
        body["components"]["securitySchemes"] = {"bearer": {"type": "http", "scheme": "bearer"}}
    return msgspec.json.encode(body)


def _operation(op: Operation, schema_of: dict[int, Any], *, keys: bool) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": f"{op.method.lower()}_{op.path.strip('/') or 'root'}".translate(
            str.maketrans("/{}.-", "_____")
        ),
        "tags": [op.tag],
        "summary": op.summary,
        "responses": _responses(op, schema_of, keys=keys),
    }
    if op.description:
        described["description"] = op.description
    if op.parameters:
        described["parameters"] = [
            {
                "name": name,
                "in": "path",
                "required": True,
                "schema": {"type": "string", "minLength": 1},
                "example": example,
            }
            for name, example in op.parameters.items()
        ]
    if op.request is not None:
        content = _content(schema_of[id(op.request)], op.request_example)
        described["requestBody"] = {"required": True, "content": {JSON: content}}
    if keys:
        described["security"] = [{"bearer": []}]
    return described


def _responses(op: Operation, schema_of: dict[int, Any], *, keys: bool) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": "The answer"}
    if op.reply is not None:
        answer["content"] = {op.media_type: _content(schema_of[id(op.reply)], op.reply_example)}
    responses: dict[str, Any] = {"200": answer}
    for status in sorted({*op.statuses, *([401] if keys else [])}):
        failed: dict[str, Any] = {"description": HTTPStatus(status).phrase}
        if op.error is not None:
            failed["content"] = {JSON: _content(schema_of[id(op.error)], None)}
        responses[str(status)] = failed
    return responses


def _content(schema: Any, example: object) -> dict[str, Any]:
    content = {"schema": schema}
    if example is not None:
        content["example"] = example
    return content
