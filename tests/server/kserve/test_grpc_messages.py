"""What a message may hold is bounded before it is parsed, and a caller that goes costs a line."""

import asyncio
import gc
import logging
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import grpc
import grpc.aio
import pytest

from checks.ports import free_port
from server import connection
from server import time_slices as time_slices_module
from server.call import Call
from server.connection import Reservation
from server.kserve import grpc_service, models
from server.kserve.arrivals import Arrivals
from server.kserve.grpc_methods import ANSWERS
from server.kserve.grpc_requests import VALUE_BYTES, Requests
from server.kserve.grpc_service import GrpcServer
from server.kserve.messages import Messages
from server.service import Service
from server.settings import read_settings
from server.time_slices import TimeSlices
from tests.server.gate import GATED_TOKENS, Gate
from tests.server.in_process import Serve, in_process
from tests.server.surfaces.kserve_requests import RANK, elements
from tests.waiting import PATIENCE_S, wait_until

PREFIX = "/inference.GRPCInferenceService/"
MESSAGES = Messages()
MOCK = {"ENABLE_MOCK_INFERENCE": "1"}
REFUSED = grpc.StatusCode.INVALID_ARGUMENT
MANY = 100_000


@pytest.fixture(scope="module")
def port() -> Iterator[int]:
    """gRPC's port of a server in this process."""
    found = free_port()
    with in_process({**MOCK, "NIM_TRITON_GRPC_PORT": str(found)}):
        yield found


def ask(port: int, method: str, message: bytes) -> Any:
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        return channel.unary_unary(PREFIX + method)(message, timeout=PATIENCE_S)


@contextmanager
def refused(words: str) -> Iterator[None]:
    with pytest.raises(grpc.RpcError, match=words) as caught:
        yield
    assert caught.value.code() is REFUSED  # type: ignore[attr-defined]


def inference(**changes: Any) -> Any:
    texts = {"query": [b"q"], "passage": [b"a", b"b"]}
    inputs = [
        {
            "name": name,
            "datatype": "BYTES",
            "shape": [len(rows), 1],
            "contents": {"bytes_contents": rows},
        }
        for name, rows in texts.items()
    ]
    return MESSAGES["ModelInferRequest"](**{"model_name": RANK, "inputs": inputs, **changes})


def raw_inference(query: bytes, passage: bytes) -> Any:
    """One row whose texts come as raw contents."""
    request = MESSAGES["ModelInferRequest"](model_name=RANK)
    for name, raw in (("query", query), ("passage", passage)):
        request.inputs.add(name=name, datatype="BYTES", shape=[1, 1])
        request.raw_input_contents.append(raw)
    return request


HOSTILE = {
    "ModelInfer": {
        "inputs": b"\x2a\x00" * MANY,
        "outputs": b"\x32\x00" * MANY,
        "raw contents": b"\x3a\x00" * MANY,
        "parameters": b"\x22\x00" * MANY,
        "names": b"\x0a\x00" * MANY,
        "unknown": b"\x78\x00" * MANY,
        "texts": inference(inputs=[{"contents": {"bytes_contents": [b""] * MANY}}]),
        "numbers": inference(inputs=[{"contents": {"uint64_contents": [0] * MANY}}]),
        "flags": inference(inputs=[{"contents": {"bool_contents": [False] * MANY}}]),
        "a shape": inference(inputs=[{"shape": [1] * MANY}]),
    },
    "RepositoryModelLoad": {"parameters": b"\x1a\x00" * MANY},
    "ModelMetadata": {"unknown": b"\x78\x00" * MANY},
}


@pytest.mark.parametrize(
    ("method", "what"), [(method, what) for method, found in HOSTILE.items() for what in found]
)
def test_too_many_values_are_not_parsed(
    port: int, method: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    parsed: list[str] = []
    monkeypatch.setattr(Requests, "parse", lambda _, name, __: parsed.append(name))
    message = HOSTILE[method][what]
    raw = message if isinstance(message, bytes) else message.SerializeToString()
    with refused("found more than [0-9]+ values .* send fewer texts"):
        ask(port, method, raw)
    assert not parsed


@pytest.mark.parametrize("method", ["ModelInfer", "ModelReady", "RepositoryIndex"])
@pytest.mark.parametrize("message", [b"\xff" * 9, b"\x0b" * MANY, b"\x0a\x05abc"])
def test_what_is_no_message_is_refused(port: int, method: str, message: bytes) -> None:
    with refused(f"found bytes that are no {method}Request"):
        ask(port, method, message)


def test_the_bound_leaves_room_for_what_is_allowed() -> None:
    texts = 5000
    given = {"RERANK_MAX_PASSAGES": str(texts), "EMBED_MAX_INPUTS": "10"}
    requests = Requests(MESSAGES, ["ModelInfer"], read_settings({**MOCK, **given}, {}))
    largest = inference()
    for tensor in largest.inputs:
        tensor.contents.bytes_contents[:] = [b"text"] * texts
        tensor.shape[:] = [texts, 1]
    message = largest.SerializeToString()
    values = asyncio.run(requests.count("ModelInfer", message, TimeSlices())).values
    assert 2 * texts < values < requests.most / 2
    assert requests.parse("ModelInfer", message) == largest


def test_too_many_texts_are_refused_in_their_own_words(port: int) -> None:
    with refused("RERANK_MAX_PASSAGES"):
        rows = {"bytes_contents": [b"text"] * 65}
        tensor = {"name": "passage", "datatype": "BYTES", "shape": [65], "contents": rows}
        ask(port, "ModelInfer", inference(inputs=[tensor]).SerializeToString())


def test_values_count_in_the_room_for_bodies(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[int] = []
    add = Reservation.add
    monkeypatch.setattr(Reservation, "add", lambda self, n: counted.append(n) or add(self, n))
    message = inference().SerializeToString()
    ask(port, "ModelInfer", message)
    requests = Requests(MESSAGES, ["ModelInfer"], read_settings(MOCK, {}))
    values = asyncio.run(requests.count("ModelInfer", message, TimeSlices())).values
    assert counted == [len(message), values * VALUE_BYTES]


@pytest.fixture
def released(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The messages that were read and that nothing refers to any more."""
    found: list[bytes] = []
    read = Arrivals.read

    class Message(bytes):
        def __del__(self) -> None:
            found.append(bytes(self))

    async def watched(self: Arrivals, *given: Any) -> bytes:
        return Message(await read(self, *given))

    monkeypatch.setattr(Arrivals, "read", watched)
    return found


def test_a_message_that_was_refused_is_not_kept(port: int, released: list[bytes]) -> None:
    """Not until garbage is collected either, which few large objects do not bring about."""
    message = HOSTILE["ModelInfer"]["inputs"]
    gc.collect()
    gc.disable()
    try:
        with refused("values"):
            ask(port, "ModelInfer", message)
        wait_until(lambda: released == [message])
    finally:
        gc.enable()


def test_what_a_refused_text_went_through_is_not_kept(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Futures and the errors that they hold keep each other, and the texts of the request."""
    errors: list[Any] = []
    monkeypatch.setattr(
        grpc_service, "log_failure", lambda error, _: errors.append(weakref.ref(error))
    )
    message = raw_inference(elements(b"q"), elements(b"x" * 100_000)).SerializeToString()
    gc.collect()
    gc.disable()
    try:
        with refused("exceeds maximum allowed token size"):
            ask(port, "ModelInfer", message)
        wait_until(lambda: errors[0]() is None)
    finally:
        gc.enable()


@pytest.mark.parametrize("surface", ["http", "grpc"])
def test_heaps_are_given_back_after_many_large_bodies(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, surface: str
) -> None:
    given_back: list[int] = []
    monkeypatch.setattr(connection, "trim_heap", lambda: given_back.append(1))
    monkeypatch.setattr(connection, "_FRAGMENTED_BYTES", 1 << 17)
    monkeypatch.setattr(connection, "_GIVE_BACK_BYTES", 1 << 19)
    found = free_port()
    server = serve({**MOCK, "NIM_TRITON_GRPC_PORT": str(found)})
    for bodies in range(1, 9):
        server.http.post("/v1/ranking", content=b" " * 1000)  # small ones do not count
        if surface == "grpc":
            with refused("values"):
                ask(found, "ModelInfer", b"\x2a\x00" * (1 << 16))
        else:
            assert server.http.post("/v1/ranking", content=b" " * (1 << 17)).status_code == 400
        wait_until(lambda: len(given_back) >= bodies // 4)  # noqa: B023
        assert len(given_back) <= bodies // 4


def test_a_message_is_not_kept_while_its_texts_are_scored(
    gate: Gate, released: list[bytes]
) -> None:
    """Neither its bytes nor what they were parsed to."""
    found = free_port()
    given = {**MOCK, "NIM_REQUEST_TIMEOUT_S": "3600", "NIM_TRITON_GRPC_PORT": str(found)}
    raw = elements(b"x" * GATED_TOKENS)
    message = raw_inference(elements(b"q"), raw).SerializeToString()
    with in_process(given), grpc.insecure_channel(f"127.0.0.1:{found}") as channel:
        asked = channel.unary_unary(PREFIX + "ModelInfer").future(message, timeout=PATIENCE_S)
        gate.wait_for_call()
        assert released == [message]
        requests = [one for one in gc.get_objects() if type(one).__name__ == "ModelInferRequest"]
        assert not [one for one in requests if raw in one.raw_input_contents]
        gate.open()
        assert asked.result()


def test_one_message_at_a_time_is_parsed_and_taken_apart(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many calls there are: from the parsing on until the texts are handed over."""
    steps: list[asyncio.Task[Any] | None] = []
    parse, rank = Requests.parse, Call.rank

    def parsed(self: Requests, method: str, message: bytes) -> Any:
        steps.append(asyncio.current_task())
        return parse(self, method, message)

    async def handed_over(self: Call, *given: Any, **more: Any) -> Any:
        steps.append(asyncio.current_task())
        return await rank(self, *given, **more)

    monkeypatch.setattr(Requests, "parse", parsed)
    monkeypatch.setattr(Call, "rank", handed_over)
    message = inference().SerializeToString()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        infer = channel.unary_unary(PREFIX + "ModelInfer")
        asked = [infer.future(message, timeout=PATIENCE_S) for _ in range(30)]
        assert all(one.result() for one in asked)
    assert len(steps) == 60
    assert steps[::2] == steps[1::2]


def test_large_messages_share_time_slices_with_others(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No two are parsed in one turn of the event loop, however many have come."""
    monkeypatch.setattr(time_slices_module, "SLICE_BYTES", 1)
    slices, parsed = 0, list[int]()
    count, parse, together = Requests.count, Requests.parse, asyncio.Barrier(20)

    async def at_once(self: Requests, method: str, message: bytes, taking: TimeSlices) -> Any:
        await together.wait()
        return await count(self, method, message, taking)

    def tick() -> None:
        nonlocal slices
        slices += 1
        if len(parsed) < 20:
            asyncio.get_running_loop().call_soon(tick)

    def counted(self: Requests, method: str, message: bytes) -> Any:
        if not parsed:
            tick()
        parsed.append(slices)
        return parse(self, method, message)

    monkeypatch.setattr(Requests, "count", at_once)
    monkeypatch.setattr(Requests, "parse", counted)
    message = inference().SerializeToString()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        infer = channel.unary_unary(PREFIX + "ModelInfer")
        asked = [infer.future(message, timeout=PATIENCE_S) for _ in range(20)]
        assert all(one.result() for one in asked)
    assert len(set(parsed)) == len(parsed) == 20


# Where the elements are


def test_raw_contents_beside_contents(port: int) -> None:
    """As Triton; empty contents are contents."""
    request = inference(raw_input_contents=[elements(b"q"), elements(b"a", b"b")])
    with refused(r"inputs.0.: found contents beside raw_input_contents, wanted one of them"):
        ask(port, "ModelInfer", request.SerializeToString())
    request.inputs[0].ClearField("contents")
    request.inputs[1].contents.Clear()
    request.inputs[1].contents.SetInParent()
    with refused(r"inputs.1.: found contents beside raw_input_contents"):
        ask(port, "ModelInfer", request.SerializeToString())
    request.inputs[1].ClearField("contents")
    assert ask(port, "ModelInfer", request.SerializeToString())


@pytest.mark.parametrize("count", [1, 3])
def test_as_many_raw_contents_as_inputs(port: int, count: int) -> None:
    request = inference(raw_input_contents=[elements(b"q")] * count)
    with refused(f"found {count} raw contents for 2 inputs, wanted one for each"):
        ask(port, "ModelInfer", request.SerializeToString())


@pytest.mark.parametrize("name", ["int_contents", "fp32_contents", "bool_contents"])
@pytest.mark.parametrize("datatype", ["BYTES", "FP32"])
def test_numbers_are_no_contents(port: int, name: str, datatype: str) -> None:
    request = inference()
    request.inputs[1].datatype = datatype
    getattr(request.inputs[1].contents, name).append(1)
    with refused(r"inputs.1.: found numbers as contents, wanted the datatype BYTES and texts"):
        ask(port, "ModelInfer", request.SerializeToString())


def test_a_long_name_is_not_spelled(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    spelled: list[int] = []
    real = models.triton_name
    monkeypatch.setattr(models, "triton_name", lambda name: spelled.append(len(name)) or real(name))
    with pytest.raises(grpc.RpcError) as caught:
        ask(port, "ModelInfer", inference(model_name="/" * (1 << 20)).SerializeToString())
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND  # type: ignore[attr-defined]
    assert max(spelled) < 1000


# Callers that go


def failures(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was logged as an error, or with a traceback."""
    return [
        one.getMessage()
        for one in caplog.records
        if one.levelno >= logging.ERROR or one.exc_info or "Traceback" in one.getMessage()
    ]


def test_deadlines_that_pass_at_once(port: int, caplog: pytest.LogCaptureFixture) -> None:
    """Whenever they pass, what they leave behind is a line each."""
    message = inference().SerializeToString()
    with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
        infer = channel.unary_unary(PREFIX + "ModelInfer")
        asked = [infer.future(message, timeout=number % 40 / 1e4) for number in range(400)]
        for one in asked:
            one.exception()
        ready = channel.unary_unary(PREFIX + "ServerReady")
        assert ready(b"", timeout=PATIENCE_S)
    assert ask(port, "ModelInfer", message)
    gc.collect()
    assert failures(caplog) == []


def test_calls_that_are_cancelled(gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    """While their message is awaited, and while the model computes."""
    found = free_port()
    given = {**MOCK, "NIM_REQUEST_TIMEOUT_S": "3600", "NIM_TRITON_GRPC_PORT": str(found)}
    request = inference()
    request.inputs[1].contents.bytes_contents[0] = b"x" * GATED_TOKENS
    with in_process(given) as server, grpc.insecure_channel(f"127.0.0.1:{found}") as channel:
        infer = channel.unary_unary(PREFIX + "ModelInfer")
        computed = infer.future(request.SerializeToString(), timeout=PATIENCE_S)
        gate.wait_for_call()
        computed.cancel()
        counted = 'request_count_total{route="grpc ModelInfer",status="CANCELLED"}'
        wait_until(lambda: f"{counted} 1.0" in server.get("/v1/metrics").text)
        gate.open()
        assert infer(request.SerializeToString(), timeout=PATIENCE_S)
    gc.collect()
    assert failures(caplog) == []


class Gone:
    """A context whose caller has gone: nothing comes from it, and nothing can be sent to it."""

    def __init__(self) -> None:
        self.aborted: list[grpc.StatusCode] = []

    def time_remaining(self) -> None:
        return None

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return ()

    def set_trailing_metadata(self, metadata: tuple[tuple[str, str], ...]) -> None:
        self.metadata = dict(metadata)

    def peer(self) -> str:
        return "ipv4:127.0.0.1:1"

    async def read(self) -> object:
        return grpc.aio.EOF

    async def abort(self, code: grpc.StatusCode, details: str) -> None:
        self.aborted.append(code)
        raise grpc.aio.InternalError("Failed execute_batch")


def test_a_refusal_that_cannot_be_sent(caplog: pytest.LogCaptureFixture) -> None:
    caller: Any = Gone()

    async def call() -> None:
        server = GrpcServer(Service(read_settings(MOCK, {})))
        handler = server._handler("ModelInfer", grpc_service._refuse)
        assert await handler.stream_unary(None, caller) is None

    asyncio.run(call())
    assert caller.aborted == [grpc.StatusCode.UNIMPLEMENTED]
    assert failures(caplog) == []


@pytest.mark.parametrize(
    ("calls", "keys"), [(256, {"x-request-id"}), (0, {"x-request-id", "retry-after"})]
)
def test_failures_tell_nothing_of_http_connections(
    calls: int, keys: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fields of a connection make an answer malformed (RFC 9113, 8.2.2). A message that does not
    come, and one for which there is no place."""
    monkeypatch.setattr(grpc_service, "_MOST_CALLS", calls)

    class Late(Gone):
        def time_remaining(self) -> Any:
            return 0.0

        async def read(self) -> object:
            return await asyncio.get_running_loop().create_future()

    caller: Any = Late()

    async def call() -> None:
        server = GrpcServer(Service(read_settings(MOCK, {})))
        answer = ANSWERS["ModelInfer"]
        handler = server._handler("ModelInfer", partial(server._answer, "ModelInfer", answer))
        await handler.stream_unary(None, caller)

    asyncio.run(call())
    assert len(caller.aborted) == 1
    assert caller.metadata.keys() == keys


def test_an_answer_that_cannot_be_sent(caplog: pytest.LogCaptureFixture) -> None:
    """gRPC sends it in the handler's own task."""

    async def call() -> None:
        grpc_service._expect_gone_callers()
        raise grpc.aio.InternalError("Failed execute_batch")

    async def until_ended() -> None:
        task = asyncio.create_task(call())
        await asyncio.wait([task])
        del task
        gc.collect()

    asyncio.run(until_ended())
    gc.collect()
    assert failures(caplog) == []
