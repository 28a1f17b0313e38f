"""Groups 9 to 11: start, stop, and failing engines; on our own processes."""

import contextlib
import ctypes
import fcntl
import os
import shutil
import signal
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import grpc
import httpx
import onnx
from onnx import TensorProto

from checks.faults.fault import Fault, NotApplicable, answered, expect
from checks.faults.models import FAIL_TOKENS, NAN_TOKENS, counting_model, passage
from checks.faults.target import BODY, Target, ranking
from checks.held import HELD_SERVE, STUCK_SERVE, let_go
from checks.serving import PATIENCE_S, Server

_START, _STOP, _ENGINE = "9 start", "10 stop", "11 engine"
_NOBODY = 65534
_LENGTH = f"Content-Length: {len(BODY)}"
_READY = "/v1/health/ready"
# Some of the requests that come at once have been read by then.
_BEGUN_S = 0.3
# A model without a manifest, over KServe.
_NAME = "llama_3_2_nv_rerankqa_1b_v2"
# Drain times: one that the check does not wait for, and one that passes.
_LONG, _SHORT = ({"RERANK_DRAIN_TIMEOUT_S": seconds} for seconds in ("3600", "1"))
_HOST = "127.0.0.1"


def _refuses_to_start(
    damage: Callable[[Path], None], texts: tuple[str, ...], target: Target
) -> None:
    """A damaged copy of the artifact must end the process with one line that says why."""
    if target.rank_dir is None:
        raise NotApplicable("needs a server of our own")
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(shutil.copytree(target.rank_dir, f"{folder}/model"))
        damage(copy)
        with target.start(model=copy) as server:
            found = server.ends()
            expect(found not in (0, None), f"exit status {found}")
            _shows_no_trace(server)
            expect(any(word in server.log for word in texts), f"the log ends {server.log[-200:]!r}")


def _shows_no_trace(server: Server) -> None:
    expect("Traceback" not in server.log, "a stack trace instead of a sentence")


def _ends_cleanly(server: Server, number: int = signal.SIGTERM) -> None:
    server.signal(number)
    expect(server.ends() == 0, "no clean end")
    _shows_no_trace(server)


def _cut(name: str) -> Callable[[Path], None]:
    def damage(model: Path) -> None:
        path = model / name
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])

    return damage


def _flip(model: Path) -> None:
    path = model / "model.onnx"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)


def _without_manifest(model: Path) -> None:
    for name in ("manifest.json", "parity.json"):
        (model / name).unlink()


def _weights_elsewhere(model: Path) -> None:
    _without_manifest(model)
    graph = onnx.load(model / "model.onnx")
    tensor = TensorProto(name="stray", data_type=TensorProto.FLOAT, dims=[1])
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../../etc/hostname")
    graph.graph.initializer.append(tensor)
    onnx.save(graph, model / "model.onnx")


def _no_graph(model: Path) -> None:
    _without_manifest(model)
    (model / "model.onnx").write_bytes(b"no graph")


def _refuses_setting(name: str, value: str, target: Target) -> None:
    with target.start({name: value}) as server:
        expect(server.ends() not in (0, None), "it started")
        expect(name in server.log, "the message does not name the variable")
        _shows_no_trace(server)
        # What depends on the model is found after other lines.
        alone = len(server.log.splitlines()) == 1 or name == "MAX_SEQUENCE_LENGTH"
        expect(alone, "more than one line says why")


def _port_used(name: str, code: int, target: Target) -> None:
    with socket.create_server((_HOST, 0)) as other:
        port = other.getsockname()[1]
        with target.start({name: str(port)}) as server:
            expect(server.ends() == code, f"exit status {server.process.poll()}, wanted {code}")
            expect(f"{name}: found port {port}" in server.log, "the message does not name the port")
            _shows_no_trace(server)


def _serves(target: Target, **options: Any) -> None:
    with target.start(**options) as server:
        answered(server.ready().rank(ranking()))
        _ends_cleanly(server)


def _other_user(target: Target) -> None:
    if os.getuid() != 0 or not _others_may_run():
        raise NotApplicable("needs root, and an interpreter that other users may run")
    _serves(target, user=_NOBODY, group=_NOBODY, extra_groups=[])


def _others_may_run() -> bool:
    pid = os.fork()
    if pid == 0:
        os.setgroups([])
        os.setgid(_NOBODY)
        os.setuid(_NOBODY)
        os._exit(0 if os.access(sys.executable, os.X_OK) else 1)
    return os.waitpid(pid, 0)[1] == 0


def _unshared(flags: str, then: str, target: Target) -> None:
    """In a mount or network namespace of its own, prepared by `then`."""
    if os.getuid() != 0 or shutil.which("unshare") is None:
        raise NotApplicable("needs root and unshare")
    inside = ["unshare", flags, "sh", "-c"]
    if os.spawnvp(os.P_WAIT, inside[0], [*inside, f"{then} true"]) != 0:
        raise NotApplicable("this machine allows no namespaces")
    _serves(target, before=[*inside, f'{then} exec "$@"', "sh"])


def _no_network(target: Target) -> None:
    """With loopback only: nothing can be fetched from elsewhere."""
    target.settings()
    if os.getuid() != 0:
        raise NotApplicable("needs root")
    pid = os.fork()
    if pid == 0:
        os._exit(_serve_alone(target))
    found = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if found == _NO_NAMESPACE:
        raise NotApplicable("this machine allows no namespaces")
    expect(found == 0, "it does not serve without a network")


_NO_NAMESPACE = 77
_CLONE_NEWNET = 0x40000000
_SIOCSIFFLAGS, _UP = 0x8914, 1


def _serve_alone(target: Target) -> int:
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET) != 0:
        return _NO_NAMESPACE
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _UP))
    try:
        _serves(target)
    except Exception as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _slow_start(target: Target) -> None:
    """Live at once, ready only after an inference; requests are told to come again."""
    with _loading(target) as (server, pipe):
        for path in ("/v2/health/ready", f"/v2/models/{_NAME}/ready"):
            expect(server.status(path) == 503, f"{path} before ready")
        health = server.get("/health")
        expect((health.status_code, health.json()["model_loaded"]) == (503, False), health.text)
        for found in (server.rank(ranking()), *map(server.get, ("/v1/models", "/v1/metadata"))):
            expect(found.status_code == 503, f"found {found.status_code} before ready")
            expect(int(found.headers.get("retry-after", 0)) >= 1, "no Retry-After")
            expect(found.json()["type"] == "invalid_request_error", found.text)
        with grpc.insecure_channel(server.grpc_address) as channel:
            ready, index = (
                channel.unary_unary(f"/inference.GRPCInferenceService/{method}")
                for method in ("ServerReady", "RepositoryIndex")
            )
            expect(not ready(b"", timeout=PATIENCE_S), "ready over gRPC")
            try:
                index(b"", timeout=PATIENCE_S)
            except grpc.RpcError as error:
                expect("not ready" in str(error), str(error))
            else:
                expect(False, "gRPC answers before ready")
        refused = 'rerank_refusals_total{reason="not_ready"} 5.0'
        expect(refused in server.get("/v1/metrics").text, "the refusals are not counted")
        server.wait_until(lambda: let_go(pipe))
        server.ready()
        with grpc.insecure_channel(server.grpc_address) as channel:
            ready = channel.unary_unary("/inference.GRPCInferenceService/ServerReady")
            expect(ready(b"", timeout=PATIENCE_S), "not ready over gRPC")
        _ends_cleanly(server)


def _stopped_while_loading(target: Target) -> None:
    with _loading(target) as (server, _):
        _ends_cleanly(server)


@contextlib.contextmanager
def _loading(target: Target) -> Iterator[tuple[Server, Path]]:
    """A server whose model loads until the pipe is opened."""
    with counting_model() as model:
        pipe = model.with_name("pipe")
        os.mkfifo(pipe)
        with target.start({}, "-c", HELD_SERVE, str(pipe), model=model) as server:
            expect(server.until("/v1/health/live", 200), "not live while the model loads")
            found = server.get(_READY)
            expect(found.status_code == 503, "ready before the model is")
            expect(found.json()["message"] == "Service is not ready.", found.text)
            yield server, pipe


def _ends(number: int, wanted: int, target: Target) -> None:
    """Idle, it waits for nobody; nobody of its group is left."""
    with target.start(_LONG, start_new_session=True) as server:
        server.ready()
        expect(not _children(server.process.pid), "it has child processes")
        server.signal(number)
        found = server.ends()
        expect(found == wanted, f"exit status {found}, wanted {wanted}")
        _shows_no_trace(server)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.process.pid, 0)
            expect(False, "processes of its group are left")
        same = {
            "NIM_HTTP_API_PORT": str(server.port),
            "NIM_TRITON_METRICS_PORT": str(server.metrics_port),
        }
    if number == signal.SIGKILL:  # a successor may have its ports at once
        with target.start(same) as successor:
            successor.port = server.port
            successor.ready()


def _children(pid: int) -> str:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().strip()


def _under_load(target: Target) -> None:
    """Requests that came in time are answered; later ones are refused or cannot connect."""
    with target.start() as server, ThreadPoolExecutor(8) as pool:
        server.ready()

        def ask(number: int) -> int:
            try:
                return server.rank(ranking(*(f"load {number} {i}" for i in range(30)))).status_code
            except (httpx.ConnectError, httpx.ReadError):
                # Connections not yet accepted when the port closes are reset by the kernel.
                return -1

        asked = [pool.submit(ask, number) for number in range(200)]
        time.sleep(_BEGUN_S)
        server.signal(signal.SIGTERM)
        expect(server.until(_READY, 503), "ready does not flip first")
        found = [one.result() for one in asked]
        expect(set(found) <= {200, 503, -1}, f"found {sorted(set(found))}")
        expect(found.count(200) > 0, "nothing was answered")
        expect(server.ends() == 0, "no clean end")


@contextlib.contextmanager
def _busy_at_the_end(
    target: Target, drain: dict[str, str]
) -> Iterator[tuple[Server, socket.socket]]:
    """A server that gets SIGTERM while a request is still being sent to it."""
    with target.start(drain) as server:
        address = (_HOST, server.ready().port)
        with socket.create_connection(address, timeout=PATIENCE_S) as connected:
            connected.sendall(target.head(_LENGTH) + BODY[:10])
            server.get("/v1/health/live")  # the server has read it by now
            server.signal(signal.SIGTERM)
            yield server, connected
            _shows_no_trace(server)


def _drains(target: Target) -> None:
    with _busy_at_the_end(target, _LONG) as (server, connected):
        server.wait_until_deaf()
        expect(server.process.poll() is None, "it did not wait")
        connected.sendall(BODY[10:])
        expect(connected.recv(100).startswith(b"HTTP/1.1 200"), "the request was not answered")
        expect(server.ends() == 0, "no clean end")


def _drain_ends(target: Target) -> None:
    with _busy_at_the_end(target, _SHORT) as (server, connected):
        expect(connected.recv(100).startswith(b"HTTP/1.1 503"), "no 503 at the deadline")
        expect(server.ends() == 0, "no clean end")


def _second_signal(number: int, target: Target) -> None:
    with _busy_at_the_end(target, _LONG) as (server, _):
        server.wait_until_deaf()  # the first one has arrived
        expect(server.process.poll() is None, "it did not wait")
        server.signal(number)
        # The shell's code: process 1 of a container cannot die of a signal.
        ended = server.ends()
        expect(ended == 128 + number, f"the second signal: exit status {ended}")


def _reload(target: Target) -> None:
    """Requests are answered meanwhile; the second time, the first model has been closed."""
    with counting_model() as model:
        link, bad = model.with_name("served"), Path(shutil.copytree(model, f"{model}-bad"))
        (bad / "model.onnx").write_bytes(b"no graph")
        link.symlink_to(model)
        with target.start(model=link) as server:
            before = server.ready().rank(ranking()).json()["rankings"]
            for number, (served, words) in enumerate(
                ((model, " ready: "), (model, " ready: "), (bad, "reload refused"))
            ):
                again = shutil.copytree(served, f"{model}-{number}")
                model.with_name("next").symlink_to(again)
                model.with_name("next").rename(link)
                count = server.log.count(words)
                server.signal(signal.SIGHUP)

                def reloaded(words: str = words, count: int = count) -> bool:
                    found = server.rank(ranking())
                    answered(found)
                    expect(found.json()["rankings"] == before, "the answer changed")
                    return server.log.count(words) > count

                server.wait_until(reloaded)
            expect(server.status(_READY) == 200, "not ready after a bad reload")
            _ends_cleanly(server)


def _broken_pipe(target: Target) -> None:
    own = target.inspected()
    own.signal(signal.SIGPIPE)
    answered(own.rank(ranking()))
    expect(own.process.poll() is None, "SIGPIPE ended it")


def _failing_engine(tokens: int, target: Target) -> None:
    with counting_model() as model, target.start(model=model) as server:
        failed = server.ready().rank(ranking(passage(tokens), query="q"))
        expect(failed.status_code == 500, f"found {failed.status_code}")
        expect("NaN" not in failed.text and "onnx" not in failed.text, "it tells what is inside")
        answered(server.rank(ranking("a", "bb", query="q")))
        expect("Traceback" not in server.log, "a stack trace for an engine's error")


def _neighbours_of_nan(target: Target) -> None:
    with (
        counting_model(work=1200) as model,
        target.start(model=model) as server,
        ThreadPoolExecutor(20) as pool,
    ):
        server.ready()
        bodies = [
            ranking(passage(NAN_TOKENS if i == 7 else NAN_TOKENS - 1, f"{i:02}"), query="q")
            for i in range(20)
        ]
        found = [one.status_code for one in pool.map(server.rank, bodies)]
        expect(found == [500 if i == 7 else 200 for i in range(20)], f"found {found}")


def _hanging_engine(target: Target) -> None:
    """The first inference, before ready, hangs already."""
    given = {"RERANK_ENGINE_PATIENCE_S": "1", "ENABLE_MOCK_INFERENCE": "1"}
    with target.start(given, "-c", STUCK_SERVE) as server:
        expect(server.until("/v1/health/live", 503), "live although the engine hangs")
        expect(server.status("/v2/health/live") == 503, "live over KServe")
        expect(server.get("/health").json()["status"] == "failed", "/health says nothing")
        server.wait_until(lambda: "an engine call has been running for" in server.log)


_DAMAGES: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "a file is gone": (lambda model: (model / "model.onnx").unlink(), ("model.onnx",)),
    "one bit differs": (_flip, ("model.onnx has changed",)),
    "half a graph": (_cut("model.onnx"), ("model.onnx",)),
    "half a manifest": (_cut("manifest.json"), ("manifest.json",)),
    "half a tokenizer": (_cut("tokenizer/tokenizer.json"), ("tokenizer",)),
    "no graph at all": (_no_graph, ("model.onnx",)),
    "weights outside the directory": (_weights_elsewhere, ("outside",)),
}
_SETTINGS = {
    "NIM_HTTP_API_PORT": "http",
    "NIM_CUSTOM_MODEL": "/nowhere",
    "NIM_REQUEST_TIMEOUT_S": "soon",
    "NIM_REQUIRE_AUTH": "true",
    "MAX_SEQUENCE_LENGTH": "999999999",
}
_READ_ONLY = "mount -o remount,bind,ro / 2>/dev/null || mount -o remount,ro / || exit 77;"

FAULTS: tuple[Fault, ...] = (
    *(
        Fault(_START, name, partial(_refuses_to_start, damage, texts))
        for name, (damage, texts) in _DAMAGES.items()
    ),
    *(
        Fault(_START, f"{name}={value}", partial(_refuses_setting, name, value))
        for name, value in _SETTINGS.items()
    ),
    Fault(_START, "the port is taken", partial(_port_used, "NIM_HTTP_API_PORT", 2)),
    Fault(_START, "the metrics port is taken", partial(_port_used, "NIM_TRITON_METRICS_PORT", 1)),
    Fault(_START, "live at once, ready after an inference", _slow_start),
    Fault(_START, "SIGTERM while the model loads", _stopped_while_loading),
    Fault(_START, "an arbitrary user", _other_user),
    Fault(_START, "a read-only root", partial(_unshared, "-m", _READ_ONLY)),
    Fault(_START, "no network", _no_network),
    Fault(_STOP, "SIGTERM, idle", partial(_ends, signal.SIGTERM, 0)),
    Fault(_STOP, "SIGINT, idle", partial(_ends, signal.SIGINT, 0)),
    Fault(_STOP, "SIGKILL leaves no orphans", partial(_ends, signal.SIGKILL, -signal.SIGKILL)),
    Fault(_STOP, "SIGTERM under load", _under_load),
    Fault(_STOP, "SIGTERM, and a request is finished", _drains),
    Fault(_STOP, "SIGTERM, and a request is not finished", _drain_ends),
    Fault(_STOP, "SIGTERM twice", partial(_second_signal, signal.SIGTERM)),
    Fault(_STOP, "SIGTERM, then SIGINT", partial(_second_signal, signal.SIGINT)),
    Fault(_STOP, "SIGHUP with a good and a bad model", _reload),
    Fault(_STOP, "SIGPIPE", _broken_pipe),
    Fault(_ENGINE, "an engine that raises", partial(_failing_engine, FAIL_TOKENS + 1)),
    Fault(_ENGINE, "NaN from the engine", partial(_failing_engine, NAN_TOKENS)),
    Fault(_ENGINE, "neighbours of NaN", _neighbours_of_nan),
    Fault(_ENGINE, "an engine that hangs", _hanging_engine),
)
