"""Every field of KServe's requests over gRPC is honoured, refused by name, or without effect.

The table is `fields/kserve.toml`, whose [[rpc]] are read here; see `test_fields`.
"""

import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import grpc
import pytest
from google.protobuf.json_format import ParseDict

from checks.ports import free_port
from server.kserve.grpc_methods import ANSWERS
from server.kserve.messages import Messages
from tests.server.conftest import MOCK
from tests.server.in_process import in_process
from tests.server.surfaces.test_fields import FATES, TABLES
from tests.waiting import PATIENCE_S

MESSAGES = Messages()
REFUSED = {grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND}


@dataclass(frozen=True)
class Row:
    """A field of a method's request, and what becomes of it."""

    rpc: dict[str, Any]
    name: str
    field_row: dict[str, Any]

    @property
    def field(self) -> str:
        return self.name.partition("[")[0]

    @property
    def method(self) -> str:
        return str(self.rpc["method"])

    def __str__(self) -> str:
        return f"{self.method}:{self.name}"

    def ask(self, channel: grpc.Channel, **more: Any) -> tuple[grpc.StatusCode, str]:
        """The status, and the reply or the words of the refusal."""
        given = {**self.rpc["request"], **self.field_row.get("with", {}), **more}
        return ask(channel, self.method, given)


def ask(channel: grpc.Channel, method: str, request: dict[str, Any]) -> tuple[grpc.StatusCode, str]:
    call = channel.unary_unary(
        f"/inference.GRPCInferenceService/{method}",
        request_serializer=lambda message: message.SerializeToString(),
        response_deserializer=MESSAGES[f"{method}Response"].FromString,
    )
    message = ParseDict(request, MESSAGES[f"{method}Request"]())
    try:
        return grpc.StatusCode.OK, str(call(message, timeout=PATIENCE_S))
    except grpc.RpcError as error:
        return error.code(), error.details()


RPCS = TABLES["kserve"]["rpc"]
ROWS = [
    Row(rpc, name, field_row) for rpc in RPCS for name, field_row in rpc.get("fields", {}).items()
]


@pytest.fixture(scope="module")
def channel() -> Iterator[grpc.Channel]:
    port = free_port()
    served = in_process({**MOCK, "NIM_TRITON_GRPC_PORT": str(port)})
    with served, grpc.insecure_channel(f"127.0.0.1:{port}") as opened:
        yield opened


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_field_has_its_fate(channel: grpc.Channel, row: Row) -> None:
    field_row = row.field_row
    assert field_row["fate"] in FATES
    if "shown_by" in field_row:
        file, _, test = field_row["shown_by"].partition("::")
        assert hasattr(importlib.import_module(f"tests.server.surfaces.{file}"), test)
        return
    code, found = row.ask(channel, **{row.field: field_row["value"]})
    if field_row["fate"] == "refused":
        assert code in REFUSED, found
        assert field_row.get("named", row.field) in found
    elif field_row["fate"] == "honoured":
        assert (code, found) != row.ask(channel)
    else:
        assert field_row["why"]
        assert (code, found) == row.ask(channel)


@pytest.mark.parametrize("method", sorted(ANSWERS))
def test_every_field_that_is_read_is_in_the_table(method: str) -> None:
    listed = {row.field for row in ROWS if row.method == method}
    assert method in {rpc["method"] for rpc in RPCS}
    assert listed == {field.name for field in MESSAGES[f"{method}Request"].DESCRIPTOR.fields}


def test_a_model_that_is_not_here_is_not_loaded(channel: grpc.Channel) -> None:
    code, words = ask(channel, "RepositoryModelLoad", {"model_name": "nobody"})
    assert code is grpc.StatusCode.NOT_FOUND
    assert "not served here" in words
