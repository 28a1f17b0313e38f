"""KServe v2 over HTTP and gRPC, through Triton's own client library and as raw bytes."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import httpx
import numpy as np
import pytest

from checks.ports import free_port
from server.kserve.messages import Messages
from tests.server.conftest import HELD, Server
from tests.server.figures import pending
from tests.server.gate import GATED_TOKENS, Gate
from tests.server.in_process import Serve
from tests.server.surfaces.kserve_requests import (
    RANK,
    assert_refused,
    binary,
    elements,
    send,
)
from tests.server.surfaces.triton_client import (
    EMBED,
    GRPC,
    HTTP,
    MAX_TOKENS,
    PASSAGES,
    QUERY,
    InferenceServerException,
    Triton,
    over_grpc,
    triton_http,
)
from tests.waiting import PATIENCE_S, wait_until

MOCK = {"ENABLE_MOCK_INFERENCE": "1"}
MESSAGES = Messages()
BOTH = pytest.mark.parametrize("transport", [HTTP, GRPC])


@pytest.fixture
def triton(mock_server: Server) -> Iterator[Callable[[str], Triton]]:
    made: list[Triton] = []

    def make(transport: str) -> Triton:
        port = mock_server.port if transport == HTTP else mock_server.grpc_port
        made.append(Triton(port, transport))
        return made[-1]

    yield make
    for one in made:
        one.client.close()


def logits(client: httpx.Client, query: str = QUERY) -> list[float]:
    body = {"query": {"text": query}, "passages": [{"text": text} for text in PASSAGES]}
    rankings = client.post("/v1/ranking", json=body).json()["rankings"]
    return [r["logit"] for r in sorted(rankings, key=lambda r: r["index"])]


def vectors(client: httpx.Client, **more: Any) -> np.ndarray:
    body = {"input": PASSAGES, "input_type": "query", **more}
    data = client.post("/v1/embeddings", json=body).json()["data"]
    return np.asarray([item["embedding"] for item in data], dtype=np.float32)


@BOTH
def test_who_is_there(triton: Any, transport: str) -> None:
    client = triton(transport).client
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready(RANK)
    assert client.is_model_ready(EMBED, "1")
    # Over gRPC as an answer, over HTTP as a status: both as Triton.
    assert not client.is_model_ready("nobody")
    assert not client.is_model_ready(RANK, "2")


@BOTH
def test_the_latest_version_is_the_one_that_there_is(triton: Any, transport: str) -> None:
    one, latest = triton(transport), "-1"
    assert one.client.is_model_ready(RANK, latest)
    for ask in (one.client.get_model_metadata, one.client.get_model_config):
        assert one.plain(ask(RANK, latest)) == one.plain(ask(RANK))
    assert one.client.get_inference_statistics(RANK, latest)
    found = one.rank([QUERY], PASSAGES, model_version=latest).get_response()
    assert (found["model_version"] if transport == HTTP else found.model_version) == "1"


@BOTH
@pytest.mark.parametrize("version", ["2", "0", "-2", "latest"])
def test_another_version_is_not_here(triton: Any, transport: str, version: str) -> None:
    with pytest.raises(InferenceServerException, match="version 1 or none"):
        triton(transport).rank([QUERY], PASSAGES, model_version=version)


@BOTH
def test_metadata_and_configuration(triton: Any, transport: str) -> None:
    one = triton(transport)
    assert one.plain(one.client.get_server_metadata())["name"] == "open-rerank"
    metadata = one.plain(one.client.get_model_metadata(RANK))
    assert metadata["versions"] == ["1"]
    names = [[tensor["name"] for tensor in metadata[end]] for end in ("inputs", "outputs")]
    assert names == [["query", "passage"], ["index", "logit", "token_count"]]
    config = one.plain(one.client.get_model_config(EMBED))
    config = config.get("config", config)
    assert config["max_batch_size"] == 30
    assert config["input"][0]["data_type"] == "TYPE_STRING"
    assert [int(size) for size in config["output"][1]["dims"]] == [64]
    assert "dynamic_batching" in config


@pytest.mark.parametrize(("given", "wanted"), [({}, 64), ({"NIM_TRITON_MAX_BATCH_SIZE": "7"}, 7)])
def test_a_batch_is_nvidia_s_whatever_a_request_may_hold(
    serve: Serve, given: dict[str, str], wanted: int
) -> None:
    """nv-ingest fills its requests up to max_batch_size: thousands of texts take too long."""
    allowed = {"RERANK_MAX_PASSAGES": "512", "EMBED_MAX_INPUTS": "8192"}
    port = free_port()
    server = serve({**MOCK, **allowed, **given, "NIM_TRITON_GRPC_PORT": str(port)})
    with over_grpc(port) as one:
        config = one.plain(one.client.get_model_config(RANK))["config"]
    assert config["max_batch_size"] == wanted
    assert server.get(f"/v2/models/{RANK}/config").json()["max_batch_size"] == wanted


@BOTH
def test_the_repository_lists_both_models(triton: Any, transport: str) -> None:
    one = triton(transport)
    index = one.plain(one.client.get_model_repository_index())
    models = index["models"] if transport == GRPC else index
    assert [(m["name"], m["version"], m["state"]) for m in models] == [
        (RANK, "1", "READY"),
        (EMBED, "1", "READY"),
    ]


@BOTH
@pytest.mark.parametrize("queries", [[QUERY], [QUERY] * 3])
def test_rank(triton: Any, client: httpx.Client, transport: str, queries: list[str]) -> None:
    result = triton(transport).rank(queries, PASSAGES, request_id="seven")
    assert result.as_numpy("logit").dtype == np.float32
    assert result.as_numpy("logit").tolist() == [[logit] for logit in logits(client)]
    assert result.as_numpy("index").tolist() == [[0], [1], [2]]
    tokens = [len(f"question:{QUERY} \n \n passage:{text}".encode()) for text in PASSAGES]
    assert result.as_numpy("token_count").tolist() == tokens
    found = result.get_response()
    assert (found["id"] if transport == HTTP else found.id) == "seven"


@BOTH
def test_every_row_may_have_a_query_of_its_own(
    triton: Any, client: httpx.Client, transport: str
) -> None:
    queries = ["one", "two", "one"]
    found = triton(transport).rank(queries, PASSAGES).as_numpy("logit").ravel()
    assert found.tolist() == [logits(client, query)[row] for row, query in enumerate(queries)]


@BOTH
def test_embed(triton: Any, client: httpx.Client, transport: str) -> None:
    one = triton(transport)
    np.testing.assert_array_equal(one.embed(PASSAGES).as_numpy("embeddings"), vectors(client))
    parameters = {"input_type": "passage", "dimensions": 8}
    found = one.embed(PASSAGES, parameters=parameters)
    np.testing.assert_allclose(
        found.as_numpy("embeddings"), vectors(client, **parameters), rtol=1e-6
    )
    assert found.as_numpy("token_count").shape == (3,)


@BOTH
@pytest.mark.parametrize(
    ("kind", "dtype"), [("int8", np.int8), ("ubinary", np.uint8), ("float", np.float32)]
)
def test_embed_in_fewer_bits(
    triton: Any, client: httpx.Client, transport: str, kind: str, dtype: type
) -> None:
    found = triton(transport).embed(PASSAGES, parameters={"embedding_type": kind})
    assert found.as_numpy("embeddings").dtype == dtype
    wanted = vectors(client, embedding_type=kind).astype(dtype)
    np.testing.assert_array_equal(found.as_numpy("embeddings"), wanted)


@BOTH
def test_outputs_are_those_that_were_asked_for(triton: Any, transport: str) -> None:
    one = triton(transport)
    outputs = [one.library.InferRequestedOutput("logit")]
    result = one.rank([QUERY], PASSAGES, outputs=outputs)
    assert result.as_numpy("logit") is not None
    assert result.as_numpy("index") is None


@BOTH
def test_long_texts_are_cut_when_that_is_asked(triton: Any, transport: str) -> None:
    long = "x" * 2 * MAX_TOKENS
    with pytest.raises(InferenceServerException, match="exceeds maximum allowed token size"):
        triton(transport).rank([QUERY], [long])
    found = triton(transport).rank([QUERY], [long], parameters={"truncate": "END"})
    assert found.as_numpy("token_count").tolist() == [MAX_TOKENS]


def asked_over_grpc(**tensors: tuple[int, bytes]) -> Any:
    """A ModelInferRequest whose tensors have so many rows, and these raw bytes."""
    request = MESSAGES["ModelInferRequest"](model_name=RANK)
    for name, (rows, raw) in tensors.items():
        request.inputs.add(name=name, datatype="BYTES", shape=[rows, 1])
        request.raw_input_contents.append(raw)
    return request


def infer_over_grpc(server: Server, request: Any) -> tuple[Any, dict[str, str]]:
    """The reply, and the metadata behind it."""
    with grpc.insecure_channel(f"127.0.0.1:{server.grpc_port}") as channel:
        ask = channel.unary_unary(
            "/inference.GRPCInferenceService/ModelInfer",
            request_serializer=lambda message: message.SerializeToString(),
            response_deserializer=MESSAGES["ModelInferResponse"].FromString,
        )
        reply, call = ask.with_call(request, timeout=PATIENCE_S)
        return reply, dict(call.trailing_metadata())


def test_cut_texts_are_counted_over_grpc(mock_server: Server, client: httpx.Client) -> None:
    rows = elements(b"short", b"x" * 2 * MAX_TOKENS, b"y" * 2 * MAX_TOKENS)
    request = asked_over_grpc(query=(1, elements(b"q")), passage=(3, rows))
    request.parameters["truncate"].string_param = "END"
    _, metadata = infer_over_grpc(mock_server, request)
    assert metadata["x-truncated-passages"] == "2"
    assert metadata["server-timing"].startswith("tokenize;dur=")
    request = asked_over_grpc(query=(1, elements(b"q")), passage=(1, elements(b"short")))
    assert "x-truncated-passages" not in infer_over_grpc(mock_server, request)[1]


@pytest.mark.parametrize(
    ("rows", "raw", "message"),
    [
        (65, b"none of them is looked at", "RERANK_MAX_PASSAGES"),
        (2, b"\1\0\0\0a" * 2 + b"\0\0\0\0" + b"\1\0\0\0\xff", "found more elements"),
    ],
)
def test_no_more_is_unpacked_than_may_be(
    mock_server: Server, client: httpx.Client, rows: int, raw: bytes, message: str
) -> None:
    head, tail = binary(raw, shape=rows)
    assert message in assert_refused(send(client, head, tail, str(len(head))))
    request = asked_over_grpc(query=(1, elements(b"q")), passage=(rows, raw))
    with pytest.raises(grpc.RpcError, match=message):
        infer_over_grpc(mock_server, request)


@pytest.mark.parametrize(
    ("end", "parameters"),
    [
        ("outputs", {"classification": {"int64_param": 2}}),
        ("outputs", {"shared_memory_region": {"string_param": "r"}}),
        ("inputs", {"shared_memory_region": {"string_param": "r"}}),
    ],
)
def test_what_is_not_served_is_refused_over_grpc(
    mock_server: Server, client: httpx.Client, end: str, parameters: dict[str, dict[str, Any]]
) -> None:
    request = asked_over_grpc(query=(1, elements(b"q")), passage=(1, elements(b"p")))
    request.outputs.add(name="logit")
    for name, value in parameters.items():
        getattr(request, end)[0].parameters[name].MergeFrom(MESSAGES["InferParameter"](**value))
    with pytest.raises(grpc.RpcError, match=f"{end}.0.: .* not served here") as caught:
        infer_over_grpc(mock_server, request)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT  # type: ignore[attr-defined]


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize("binary_reply", [False, True])
def test_json_and_bytes_in_both_directions(
    triton: Any, client: httpx.Client, binary: bool, binary_reply: bool
) -> None:
    one = triton(HTTP)
    tensors = [
        one.texts("query", [QUERY], binary_data=binary),
        one.texts("passage", PASSAGES, binary_data=binary, flat=True),
    ]
    outputs = [triton_http.InferRequestedOutput("logit", binary_data=binary_reply)]
    found = one.client.infer(RANK, tensors, outputs=outputs).as_numpy("logit").ravel().tolist()
    assert found == logits(client)


def test_statistics_show_batching(serve: Serve, gate: Gate) -> None:
    port = free_port()
    given = {"NIM_TRITON_MAX_BATCH_SIZE": "4", "NIM_TRITON_GRPC_PORT": str(port)}
    server = serve({**HELD, **given})
    before = server.get("/v2/models/stats").json()["model_stats"][0]

    def ask(number: int) -> None:
        with over_grpc(port) as own:
            own.rank([QUERY], [f"{number:02}".ljust(GATED_TOKENS)])

    with ThreadPoolExecutor(24) as pool:
        asked = [pool.submit(ask, 0)]
        gate.wait_for_call()
        asked += [pool.submit(ask, number) for number in range(1, 24)]
        wait_until(lambda: pending(server) == 23)
        gate.open()
        for one in asked:
            one.result()
    with over_grpc(port) as one:
        statistics = one.plain(one.client.get_inference_statistics(RANK))["model_stats"][0]
    for found in (statistics, server.get(f"/v2/models/{RANK}/stats").json()["model_stats"][0]):
        assert int(found["inference_count"]) - before["inference_count"] == 24
        # One row, and the others by four.
        assert int(found["execution_count"]) - before["execution_count"] == 1 + 6
        stages = found["inference_stats"]
        assert int(stages["success"]["count"]) == 24
        assert int(stages["compute_infer"]["ns"]) > 0
        assert int(found["last_inference"]) > int(before["last_inference"])


@BOTH
@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"query": ["q"]}, "passage"),
        ({"passage": ["p"]}, "query"),
        ({"query": ["q"], "documents": ["p"]}, "another input"),
        ({"query": ["q", "r"], "passage": ["p"]}, "2 queries for 1 passages"),
        ({"query": ["q"], "passage": ["p", " "]}, r"passage\[1\]"),
        ({"query": [" "], "passage": ["p"]}, r"query\[0\]"),
        ({"query": ["q", " "], "passage": ["p", "p"]}, r"query\[1\]"),
        ({"query": ["q"], "passage": ["p"] * 65}, "RERANK_MAX_PASSAGES"),
    ],
)
def test_wrong_inputs(
    triton: Any, transport: str, tensors: dict[str, list[str]], message: str
) -> None:
    one = triton(transport)
    with pytest.raises(InferenceServerException, match=message):
        one.client.infer(RANK, [one.texts(name, texts) for name, texts in tensors.items()])


@BOTH
@pytest.mark.parametrize(
    "parameters",
    [
        {"truncate": "MIDDLE"},
        {"input_type": "poem"},
        {"dimensions": 0},
        {"dimensions": -1},
        {"dimensions": "many"},
        {"dimensions": "9" * 5000},
        {"dimensions": True},
        {"dimensions": "8.0"},
        {"embedding_type": "float16"},
    ],
)
def test_wrong_parameters(triton: Any, transport: str, parameters: dict[str, Any]) -> None:
    (name,) = parameters
    with pytest.raises(InferenceServerException, match=f"parameters.{name}"):
        triton(transport).embed(["a"], parameters=parameters)


@BOTH
def test_a_timeout_of_the_caller_counts(triton: Any, transport: str) -> None:
    """Microseconds, of which 0 are no limit; the server's own goes on counting."""
    one = triton(transport)
    for timeout in (0, 10**15):
        assert one.rank([QUERY], PASSAGES, timeout=timeout).as_numpy("logit").shape == (3, 1)
    with pytest.raises(InferenceServerException, match=r"time|late|deadline"):
        one.rank([QUERY], PASSAGES, timeout=1)


@BOTH
@pytest.mark.parametrize("model", ["nobody", EMBED + "x"])
def test_another_model(triton: Any, transport: str, model: str) -> None:
    one = triton(transport)
    with pytest.raises(InferenceServerException, match="not served here"):
        one.client.infer(model, [one.texts("text", ["a"])])


def test_a_model_has_nvidia_s_names_too(triton: Any) -> None:
    one = triton(GRPC)
    for name in ("nvidia/llama-3.2-nv-rerankqa-1b-v2", "llama_nemotron_rerank_1b_v2"):
        assert one.client.is_model_ready(name)
