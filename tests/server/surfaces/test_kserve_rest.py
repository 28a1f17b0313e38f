"""KServe v2's REST form as raw requests: shapes, bytes behind the JSON, refusals."""

import json
import struct
from typing import Any

import httpx
import pytest

from tests.server.conftest import Server
from tests.server.surfaces.kserve_requests import (
    INFER,
    RANK,
    assert_refused,
    binary,
    body,
    elements,
    send,
)
from tests.waiting import PATIENCE_S


@pytest.mark.parametrize("data", [["a", "b"], [["a"], ["b"]]])
@pytest.mark.parametrize("shape", [[2], [2, 1]])
def test_data_may_be_flat_or_nested(
    client: httpx.Client, data: list[Any], shape: list[int]
) -> None:
    response = client.post(INFER, json=body(data=data, shape=shape))
    assert response.status_code == 200, response.text
    outputs = {output["name"]: output for output in response.json()["outputs"]}
    assert outputs["logit"]["shape"] == [2, 1]
    assert len(outputs["logit"]["data"]) == 2
    assert outputs["token_count"]["datatype"] == "INT32"


@pytest.mark.parametrize("path", [INFER, f"/v2/models/{RANK}/versions/1/infer"])
def test_versions(client: httpx.Client, path: str) -> None:
    assert client.post(path, json=body()).json()["model_version"] == "1"
    assert_refused(client.post(path.replace("/infer", "/nothing"), json=body()), 404)


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": [3, 1]},
        {"shape": [1, 2]},
        {"shape": [2, 1, 1]},
        {"shape": []},
        {"shape": [0]},
        {"shape": [-1, 1]},
        {"shape": [2**62, 1]},
        {"shape": ["2"]},
        {"shape": None},
        {"datatype": "FP32"},
        {"datatype": "bytes"},
        {"datatype": 5},
        {"data": None},
        {"data": "a"},
        {"data": ["a", 2]},
        {"data": ["a", None]},
        {"data": [[["a"]], [["b"]]]},
        {"data": [], "shape": [0, 1]},
        {"name": 5},
        {"parameters": {"binary_data_size": 3}},
        {"parameters": {"binary_data_size": -1}},
        {"parameters": {"binary_data_size": "3"}},
        {"parameters": {"binary_data_size": True}},
        {"parameters": {"shared_memory_region": "r", "shared_memory_byte_size": 8}},
        {"parameters": []},
    ],
)
def test_a_wrong_tensor(client: httpx.Client, changes: dict[str, Any]) -> None:
    assert_refused(client.post(INFER, json=body(**changes)))


@pytest.mark.parametrize(
    "more",
    [
        {"outputs": [{"name": "scores"}]},
        {"outputs": [{"name": "logit"}, {"name": "logit"}]},
        {"outputs": [{"name": "logit", "parameters": {"classification": 2}}]},
        {"outputs": [{"name": "logit", "parameters": {"shared_memory_region": "r"}}]},
        {"outputs": {}},
        {"parameters": {"truncate": 5}},
        {"parameters": "END"},
        {"parameters": {"binary_data_output": "false"}},
        {"parameters": {"binary_data_output": 1}},
        {"parameters": {"timeout": -1}},
        {"parameters": {"timeout": "soon"}},
        {"parameters": {"timeout": False}},
        {"parameters": {"timeout": 1.5}},
        {"outputs": [{"name": "logit", "parameters": {"binary_data": "true"}}]},
        {"id": 5},
        {"inputs": []},
        {"inputs": [body()["inputs"][0]] * 2},
    ],
)
def test_a_wrong_request(client: httpx.Client, more: dict[str, Any]) -> None:
    assert_refused(client.post(INFER, json={**body(), **more}))


@pytest.mark.parametrize("tail", ["", "/versions/1", "/versions/-1"])
def test_a_model_is_ready(client: httpx.Client, tail: str) -> None:
    path = f"/v2/models/{RANK}{tail}/ready"
    assert client.get(path).json() == {"name": RANK, "ready": True}
    assert (client.head(path).status_code, client.head(path).content) == (200, b"")
    assert_refused(client.get("/v2/models/nobody/ready"), 404)


def test_all_outputs_may_be_raw(client: httpx.Client) -> None:
    """But for those that say otherwise."""
    parameters = {"parameters": {"binary_data_output": True}}
    response = client.post(INFER, json={**body(), **parameters})
    size = int(response.headers["inference-header-content-length"])
    outputs = json.loads(response.content[:size])["outputs"]
    assert [set(output["parameters"]) for output in outputs] == [{"binary_data_size"}] * 3
    assert sum(output["parameters"]["binary_data_size"] for output in outputs) == len(
        response.content[size:]
    )
    plain = [{"name": "logit", "parameters": {"binary_data": False}}]
    response = client.post(INFER, json={**body(), **parameters, "outputs": plain})
    assert len(response.json()["outputs"][0]["data"]) == 2


def test_a_wrong_query_among_many_is_named(client: httpx.Client) -> None:
    queries = {"name": "query", "shape": [3], "datatype": "BYTES", "data": ["q", "r", "q"]}
    passages = {"name": "passage", "shape": [3], "datatype": "BYTES", "data": ["a", "b", " "]}
    response = client.post(INFER, json={"inputs": [queries, passages]})
    assert "passage[2]" in assert_refused(response)


def test_binary_inputs(client: httpx.Client) -> None:
    head, raw = binary(elements(b"a", "bé".encode()))
    assert send(client, head, raw, str(len(head))).status_code == 200


@pytest.mark.parametrize("length", ["-1", "x", "", "1e3", "99999999", "9" * 30, "٣"])
def test_a_header_length_that_is_none(client: httpx.Client, length: str) -> None:
    head, raw = binary(elements(b"a", b"b"))
    headers = {"Inference-Header-Content-Length": length.encode()}
    response = client.post(INFER, content=head + raw, headers=headers)
    assert_refused(response)


@pytest.mark.parametrize("off", [-1, 1, 5])
def test_a_header_length_that_is_wrong(client: httpx.Client, off: int) -> None:
    head, raw = binary(elements(b"a", b"b"))
    assert_refused(send(client, head, raw, str(len(head) + off)))


@pytest.mark.parametrize(
    ("raw", "size"),
    [
        (b"", 1),
        (elements(b"a", b"b"), 4),
        (elements(b"a", b"b"), 1000),
        (elements(b"a", b"b") + b"x", None),
        (elements(b"a", b"b") + b"\0\0", None),
        (elements(b"a"), None),
        (elements(b"a", b"b", b"c"), None),
        (struct.pack("<I", 2**32 - 1) + b"a", None),
        (struct.pack("<I", 100) + b"a", None),
        (elements(b"a", b"\xff\xfe"), None),
        (elements(b"a", b""), None),
    ],
)
def test_raw_elements_that_do_not_fit(client: httpx.Client, raw: bytes, size: int | None) -> None:
    head, tail = binary(raw, size)
    assert_refused(send(client, head, tail, str(len(head))))


def test_bytes_that_belong_to_no_input(client: httpx.Client) -> None:
    head = json.dumps(body()).encode()
    assert_refused(send(client, head, b"rest", str(len(head))))


@pytest.mark.parametrize("raw", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 5000])
def test_bodies_that_are_no_request(client: httpx.Client, raw: bytes) -> None:
    assert_refused(client.post(INFER, content=raw))


@pytest.mark.parametrize("action", ["load", "unload"])
def test_models_are_not_managed_here(client: httpx.Client, action: str) -> None:
    url = f"/v2/repository/models/{RANK}/{action}"
    given = {"parameters": {"config": "{}"}} if action == "load" else None
    assert assert_refused(client.post(url, json=given))


def test_unknown_routes_and_methods_have_the_same_error_body(client: httpx.Client) -> None:
    assert_refused(client.get("/v2/nothing"), 404)
    assert_refused(client.get("/v2/models/nobody"), 404)
    assert_refused(client.get(INFER), 405)


def test_a_caller_s_own_names_do_not_come_back(client: httpx.Client) -> None:
    name = "secret-name" * 1000
    for changes in ({"name": name}, {"name": name, "datatype": "FP32"}):
        assert "secret" not in assert_refused(client.post(INFER, json=body(**changes)))
    outputs = [{"name": name, "parameters": {"classification": 1}}]
    assert "secret" not in assert_refused(client.post(INFER, json={**body(), "outputs": outputs}))


def test_the_second_port_has_these_routes_alone(mock_server: Server) -> None:
    url = f"http://127.0.0.1:{mock_server.triton_port}"
    with httpx.Client(base_url=url, timeout=PATIENCE_S) as second:
        assert second.post(INFER, json=body()).status_code == 200
        assert second.get("/v2/health/ready").status_code == 200
        assert second.get("/v1/models").status_code == 404


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shape": [65], "data": ["a", 5]}, "RERANK_MAX_PASSAGES"),
        ({"data": ["a", "b", "c", 5]}, "found more elements"),
        ({"data": ["a", [], "b"]}, "nested as the shape is"),
    ],
)
def test_no_more_json_is_walked_than_may_be(
    client: httpx.Client, changes: dict[str, Any], message: str
) -> None:
    assert message in assert_refused(client.post(INFER, json=body(**changes)))


def test_no_input_is_looked_at_behind_one_that_does_not_belong(client: httpx.Client) -> None:
    query, passage = body()["inputs"]
    broken = {**passage, "shape": [5, 5]}
    for more, message in (({**query, "name": "other"}, "another input"), (query, "query twice")):
        response = client.post(INFER, json={"inputs": [query, more, broken]})
        assert message in assert_refused(response)
