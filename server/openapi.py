"""The OpenAPI document, made from the operations that each surface declares.

Routes read and write bytes, so the framework sees no types. Each surface names its structs instead,
and msgspec turns them into schemas.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

import msgspec

_REF = "#/components/schemas/{name}"
JSON = "application/json"
_Schemas = dict[int, Any]


@dataclass(frozen=True, kw_only=True)
class Operation:
    """The documentation of one method on one path.

    `request` and `reply` are types for msgspec, or tuples of alternatives; None for no body.
    `error` is the surface's error body. `statuses` are the possible statuses besides 200; `answers`
    says whether 200 is possible. `parameters` are path parameters with an example each. `open`
    routes need no key.
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
    answers: bool = True
    open: bool = False


def document(operations: Iterable[Operation], *, title: str, version: str, keys: bool) -> bytes:
    """The OpenAPI 3.1 document as JSON; `keys` says whether routes need a bearer."""
    listed = list(operations)
    types = [t for op in listed for body in (op.request, op.reply, op.error) for t in _each(body)]
    found, components = msgspec.json.schema_components(types, ref_template=_REF)
    # Keyed by identity, because not every type is hashable.
    schemas = {id(t): schema for t, schema in zip(types, found, strict=True)}
    paths: dict[str, dict[str, Any]] = {}
    for op in listed:
        described = _operation(op, schemas, keys=keys and not op.open)
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


def _operation(op: Operation, schemas: _Schemas, *, keys: bool) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": f"{op.method.lower()}_{op.path.strip('/') or 'root'}".translate(
            str.maketrans("/{}.-", "_____")
        ),
        "tags": [op.tag],
        "summary": op.summary,
        "responses": _responses(op, schemas, keys=keys),
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
        content = _content(op.request, op.request_example, schemas)
        described["requestBody"] = {"required": True, "content": {JSON: content}}
    if keys:
        described["security"] = [{"bearer": []}]
    return described


def _responses(op: Operation, schemas: _Schemas, *, keys: bool) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": "The answer"}
    if op.reply is not None:
        answer["content"] = {op.media_type: _content(op.reply, op.reply_example, schemas)}
    responses: dict[str, Any] = {"200": answer} if op.answers else {}
    for status in sorted({*op.statuses, *([401] if keys else [])}):
        failed: dict[str, Any] = {"description": HTTPStatus(status).phrase}
        if op.error is not None:
            failed["content"] = {JSON: _content(op.error, None, schemas)}
        responses[str(status)] = failed
    return responses


def _content(body: Any, example: object, schemas: _Schemas) -> dict[str, Any]:
    described = [schemas[id(t)] for t in _each(body)]
    content = {"schema": described[0] if len(described) == 1 else {"anyOf": described}}
    if example is not None:
        content["example"] = example
    return content


def _each(body: Any) -> tuple[Any, ...]:
    """The alternatives of a body; msgspec cannot describe a union of structs."""
    if body is None:
        return ()
    return body if isinstance(body, tuple) else (body,)
