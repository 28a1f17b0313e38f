"""Groups 14 and 15: Triton's clients against KServe v2, and the installed packages."""

import json
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib import metadata
from typing import Any

import grpc
import numpy as np
import tritonclient.grpc
import tritonclient.utils

from checks.faults.fault import Broken, Fault, NotApplicable, expect, refused, survived
from checks.faults.target import Target

_CLIENTS, _PACKAGES = "14 clients", "15 packages"
# More stalled calls than a server runs at the same time, and the seconds before another client
# calls.
_STALLED, _STALLED_S = 300, 1.5
_PATIENCE_S = 10.0
_BYTES = np.dtype(np.object_)


def model_of(target: Target) -> str:
    """The reranker's name over KServe v2. Raises NotApplicable."""
    found = target.post("/v2/repository/index", {})
    if found.status_code != 200:
        raise NotApplicable("no KServe v2")
    names = [entry["name"] for entry in found.json()]
    reranker = [name for name in names if "rank" in name]
    if not reranker:
        raise NotApplicable("no reranker over KServe v2")
    return reranker[0]


def _infer(target: Target) -> str:
    return f"/v2/models/{model_of(target)}/infer"


def _tensor(name: str, *texts: object, **changes: object) -> dict[str, Any]:
    return {"name": name, "shape": [len(texts), 1], "datatype": "BYTES", "data": texts, **changes}


def _request(**changes: object) -> dict[str, Any]:
    inputs = [_tensor("query", "q"), _tensor("passage", "a", "b")]
    return {"inputs": inputs, **changes}


def _sound(target: Target) -> None:
    found = target.post(_infer(target), _request())
    expect(found.status_code == 200, f"found {found.status_code}")


_Q = _tensor("query", "q")
_REFUSED: dict[str, Any] = {
    "wrong shape": [_Q, _tensor("passage", "a", "b", shape=[3, 1])],
    "negative shape": [_Q, _tensor("passage", "a", shape=[-1, 1])],
    "a shape of 2^62": [_Q, _tensor("passage", "a", shape=[1 << 62, 1])],
    "wrong datatype": [_Q, _tensor("passage", "a", datatype="FP32")],
    "wrong name": [_Q, _tensor("documents", "a")],
    "an input twice": [_Q, _Q, _tensor("passage", "a")],
    "no inputs": [],
    "numbers for texts": [_Q, _tensor("passage", 1, 2)],
    "zero rows": [_Q, _tensor("passage")],
}


def _refuses(inputs: object, target: Target) -> None:
    refused(target.post(_infer(target), {"inputs": inputs}))


def _output(outputs: object, target: Target) -> None:
    survived(target.post(_infer(target), _request(outputs=outputs)))


def _binary(raw: bytes, size: int, header: str | None, target: Target) -> None:
    """A raw tensor after the JSON, with inconsistent lengths."""
    inputs = [_Q, {"name": "passage", "shape": [1, 1], "datatype": "BYTES"}]
    inputs[1]["parameters"] = {"binary_data_size": size}
    head = json.dumps({"inputs": inputs}).encode()
    headers = {"Inference-Header-Content-Length": header or str(len(head))}
    refused(target.http.post(_infer(target), content=head + raw, headers=headers))


def _grpc(
    change: Callable[[Any], None], wanted: tuple[grpc.StatusCode, ...], target: Target
) -> None:
    address, name = target.grpc_address(), model_of(target)
    passage = tritonclient.grpc.InferInput("passage", [2, 1], "BYTES")
    passage.set_data_from_numpy(np.array([[b"a"], [b"b"]], dtype=_BYTES))
    query = tritonclient.grpc.InferInput("query", [1, 1], "BYTES")
    query.set_data_from_numpy(np.array([[b"q"]], dtype=_BYTES))
    given: dict[str, Any] = {"model_name": name, "inputs": [query, passage]}
    change(given)
    with tritonclient.grpc.InferenceServerClient(address) as client:
        try:
            client.infer(**given)
        except tritonclient.utils.InferenceServerException as error:
            found = error.status() or ""
            names = [f"StatusCode.{code.name}" for code in wanted]
            expect(found in names, f"found {found}, wanted {' or '.join(names)}")
        else:
            expect(not wanted, "it was answered")


def _large(given: dict[str, Any], target_bytes: int = 80 << 20) -> None:
    huge = tritonclient.grpc.InferInput("passage", [1, 1], "BYTES")
    huge.set_data_from_numpy(np.array([[b"x" * target_bytes]], dtype=_BYTES))
    given["inputs"][1] = huge


def _squeezed(given: dict[str, Any]) -> None:
    _large(given)
    given["compression_algorithm"] = "gzip"


def _unknown(given: dict[str, Any]) -> None:
    given["model_name"] = "nobody"


def _late(given: dict[str, Any]) -> None:
    texts = [[b"word " * 500 + str(i).encode()] for i in range(200)]
    slow = tritonclient.grpc.InferInput("passage", [len(texts), 1], "BYTES")
    slow.set_data_from_numpy(np.array(texts, dtype=_BYTES))
    given["inputs"][1] = slow
    given["parameters"] = {"truncate": "END"}
    given["client_timeout"] = 0.02


def _shape(given: dict[str, Any]) -> None:
    given["inputs"][1].set_shape([3, 1])


def _raw_lengths(given: dict[str, Any]) -> None:
    wrong = struct.pack("<I", 1 << 30) + b"a"
    given["inputs"][1]._raw_content = wrong


def _bad_bytes(target: Target) -> None:
    """Bytes that are not a message."""
    with grpc.insecure_channel(target.grpc_address()) as channel:
        call = channel.unary_unary("/inference.GRPCInferenceService/ModelInfer")
        try:
            call(b"\xff" * 1000, timeout=10)
        except grpc.RpcError as error:
            expect(error.code() != grpc.StatusCode.DEADLINE_EXCEEDED, "no answer")
        else:
            raise Broken("bytes that are no message were answered")


def _stalled_calls(target: Target) -> None:
    """Clients that open calls without sending their messages must not block other clients."""
    address, over = target.grpc_address(), threading.Event()

    def nothing() -> Iterator[bytes]:
        over.wait()
        yield from ()

    with grpc.insecure_channel(address) as channel:
        infer = channel.stream_unary("/inference.GRPCInferenceService/ModelInfer")
        ready = channel.unary_unary("/inference.GRPCInferenceService/ServerReady")
        stalled = [infer.future(nothing()) for _ in range(_STALLED)]
        try:
            time.sleep(_STALLED_S)
            _until_answered(ready)
        finally:
            over.set()
            for call in stalled:
                call.cancel()


def _until_answered(call: Any) -> None:
    end = time.monotonic() + _PATIENCE_S
    while True:
        try:
            call(b"", timeout=2)
        except grpc.RpcError as error:
            expect(time.monotonic() < end, f"other clients are blocked: {error.code()}")
            time.sleep(0.1)
        else:
            return


def _models_list(target: Target) -> None:
    """What clients need to discover the model."""
    found = target.http.get("/v1/models")
    expect(found.status_code == 200, f"found {found.status_code}")
    data = found.json()["data"]
    expect(data and all(entry.get("id") for entry in data), "no model is listed")
    reply = target.rank(model=data[0]["id"])
    expect(reply.status_code == 200, f"the listed name is refused with {reply.status_code}")


def _packages_fit(target: Target) -> None:
    target.inspected()
    done = subprocess.run(
        [sys.executable, "-m", "pip", "check"], capture_output=True, text=True, check=False
    )
    expect(done.returncode == 0, done.stdout[-300:])


def _warnings_are_errors(target: Target) -> None:
    expect("Warning:" not in target.inspected().log, "a warning of Python in the log")


def _patched(target: Target) -> None:
    """The minimum versions without known advisories for the features in use."""
    target.inspected()
    least = {"h11": (0, 16), "litestar": (2, 20), "onnx": (1, 21)}
    for name, wanted in least.items():
        found = tuple(int(part) for part in metadata.version(name).split(".")[:2])
        expect(found >= wanted, f"{name} {metadata.version(name)}")


_ARGUMENT = (grpc.StatusCode.INVALID_ARGUMENT,)
_TOO_LARGE = (grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.INVALID_ARGUMENT)
_GRPC: dict[str, tuple[Callable[[Any], None], tuple[grpc.StatusCode, ...]]] = {
    "gRPC, wrong shape": (_shape, _ARGUMENT),
    "gRPC, wrong length of a text": (_raw_lengths, _ARGUMENT),
    "gRPC, unknown model": (_unknown, (grpc.StatusCode.NOT_FOUND,)),
    "gRPC, a message over the limit": (_large, _TOO_LARGE),
    "gRPC, a bomb in gzip": (_squeezed, _TOO_LARGE),
    "gRPC, a deadline": (
        _late,
        (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED),
    ),
}
_LENGTH = struct.pack("<I", 1)

FAULTS: tuple[Fault, ...] = (
    Fault(_CLIENTS, "the listed model", _models_list),
    Fault(_CLIENTS, "a sound inference", _sound),
    *(Fault(_CLIENTS, name, partial(_refuses, inputs)) for name, inputs in _REFUSED.items()),
    Fault(_CLIENTS, "an unknown output", partial(_output, [{"name": "nothing"}])),
    Fault(_CLIENTS, "an output twice", partial(_output, [{"name": "logit"}] * 2)),
    Fault(_CLIENTS, "raw size past the end", partial(_binary, _LENGTH + b"a", 500, None)),
    Fault(_CLIENTS, "raw size negative", partial(_binary, _LENGTH + b"a", -1, None)),
    Fault(_CLIENTS, "raw text past the end", partial(_binary, b"\xff\xff\xff\x7fa", 5, None)),
    Fault(_CLIENTS, "raw bytes left over", partial(_binary, _LENGTH + b"abc", 5, None)),
    Fault(_CLIENTS, "JSON length past the end", partial(_binary, _LENGTH + b"a", 5, "99999999")),
    Fault(_CLIENTS, "JSON length negative", partial(_binary, _LENGTH + b"a", 5, "-1")),
    *(Fault(_CLIENTS, name, partial(_grpc, *given)) for name, given in _GRPC.items()),
    Fault(_CLIENTS, "gRPC, no message at all", _bad_bytes),
    Fault(_CLIENTS, "gRPC, 300 calls without a message", _stalled_calls),
    Fault(_PACKAGES, "what is installed fits together", _packages_fit),
    Fault(_PACKAGES, "no warnings of Python", _warnings_are_errors),
    Fault(_PACKAGES, "no known advisory", _patched),
)
