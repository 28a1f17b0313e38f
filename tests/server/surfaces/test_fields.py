"""Every field of every dialect's requests is honoured, refused by name, or without effect.

`fields/` has a table a dialect, written from its server's schema, whose version and date it names:

    [[route]]
    path = "/rerank"                  # as the OpenAPI document has it; `parameters` fill it in;
                                      # `paths` for several of the same fields
    upstream = ["query", …]           # all fields of the request in that server's schema
    body = { query = "…" }            # a request that is answered with 200
    [route.fields.truncation_side]
    fate = "honoured"                 # "refused" or "no effect"
    value = "left"
    with = { … }                      # further fields, without which nothing would show
    shown_by = "test_file::test"      # instead, where the answer cannot show it

A further name in brackets, as in `fields."padding[do_not_pad]"`, tells a second value of a field
apart.
"""

import importlib
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from server.surfaces.documents import RerankRequest
from tests.server.described import OPERATIONS

FOLDER = Path(__file__).parent / "fields"
TABLES = {path.stem: tomllib.loads(path.read_text("utf-8")) for path in FOLDER.glob("*.toml")}
FATES = {"honoured", "refused", "no effect"}
# No two answers have the same.
OWN = {"id", "created"}


@dataclass(frozen=True)
class Row:
    """A field of a route, and what becomes of it."""

    dialect: str
    path: str
    route: dict[str, Any]
    name: str
    field_row: dict[str, Any]

    @property
    def field(self) -> str:
        return self.name.partition("[")[0]

    def __str__(self) -> str:
        return f"{self.dialect}{self.path}:{self.name}"

    def ask(self, client: httpx.Client, **more: Any) -> httpx.Response:
        path = self.path.format(**self.route.get("parameters", {}))
        body = {**self.route["body"], **self.field_row.get("with", {}), **more}
        return client.post(path, json=body)


ROWS = [
    Row(dialect, path, route, name, field_row)
    for dialect, table in sorted(TABLES.items())
    for route in table.get("route", [])
    for path in route.get("paths", [route.get("path")])
    for name, field_row in route["fields"].items()
]


def answer(response: httpx.Response) -> Any:
    assert response.status_code == 200, response.text
    found = response.json()
    if isinstance(found, dict):
        return {name: value for name, value in found.items() if name not in OWN}
    return found


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_field_has_its_fate(client: httpx.Client, row: Row) -> None:
    field_row = row.field_row
    assert field_row["fate"] in FATES
    if "shown_by" in field_row:
        file, _, test = field_row["shown_by"].partition("::")
        assert hasattr(importlib.import_module(f"tests.server.surfaces.{file}"), test)
        return
    found = row.ask(client, **{row.field: field_row["value"]})
    if field_row["fate"] == "refused":
        assert 400 <= found.status_code < 500, found.text
        assert row.field in found.text
    elif field_row["fate"] == "honoured":
        assert answer(found) != answer(row.ask(client))
    else:
        assert field_row["why"]
        assert answer(found) == answer(row.ask(client))


@pytest.mark.parametrize("dialect", sorted(TABLES))
def test_a_table_names_its_source(dialect: str) -> None:
    source = TABLES[dialect]["source"]
    assert source["of"]
    assert source["read"].isoformat() >= "2026-11-01"


@pytest.mark.parametrize("dialect", sorted(TABLES))
def test_every_field_of_a_server_s_schema_has_a_row(dialect: str) -> None:
    """In this table, or in that of another dialect with the same path."""
    for route in TABLES[dialect].get("route", []):
        for path in route.get("paths", [route.get("path")]):
            listed = {row.field for row in ROWS if row.path == path}
            assert route["upstream"]
            assert set(route["upstream"]) <= listed, path


def requests() -> Iterator[tuple[str, type[msgspec.Struct]]]:
    for operation in OPERATIONS:
        for kind in operation.request:
            if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
                yield operation.path, kind


@pytest.mark.parametrize("path", sorted({row.path for row in ROWS}))
def test_every_field_that_is_read_is_in_a_table(path: str) -> None:
    listed = {row.field for row in ROWS if row.path == path}
    read = {
        field.encode_name
        for at, kind in requests()
        if at == path
        for field in msgspec.structs.fields(kind)
    }
    assert read, "no such path"
    assert read <= listed


def test_cohere_s_v2_has_a_fate_for_every_field_of_v1() -> None:
    """Its clients are those of /v1/rerank, and vLLM serves both paths alike."""
    listed = {row.field for row in ROWS if row.path == "/v2/rerank"}
    assert set(RerankRequest.__struct_fields__) <= listed
