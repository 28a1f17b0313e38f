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

import httpx
import onnx
from onnx import TensorProto

from checks.faults.fault import Fault, NotApplicable, answered, expect
from checks.faults.models import FAIL_TOKENS, NAN_TOKENS, passage, work_of, write_model
from checks.faults.own import START_S, OwnServer, started
from checks.faults.target import BODY, Target, ranking
from checks.held import HELD_SERVE

_START, _STOP, _ENGINE = "9 start", "10 stop", "11 engine"
_NOBODY = 65534
_LENGTH = f"Content-Length: {len(BODY)}"
# uvicorn tells the application to stop only after it has started.
_BEGUN_S = 0.3
# A drain time that the check does not wait for.
_LONG_S = 600
# For an engine that does not return from a call.
_PATIENCE_S = 1


@contextlib.contextmanager
def _folder(target: Target) -> Iterator[Path]:
    if target.rank_dir is None:
        raise NotApplicable("needs a server of our own")
    with tempfile.TemporaryDirectory() as name:
        yield Path(name)


def _refuses_to_start(
    damage: Callable[[Path], None], texts: tuple[str, ...], target: Target
) -> None:
    """A damaged copy of the artifact must end the process with one line that says why."""
    with _folder(target) as folder:
        copy = folder / "model"
        shutil.copytree(str(target.rank_dir), copy)
        damage(copy)
        with started(folder, {"NIM_CUSTOM_MODEL": str(copy)}) as server:
            found = server.ends()
            expect(found not in (0, None), f"exit status {found}")
            expect("Traceback" not in server.log, "a stack trace instead of a sentence")
            expect(any(word in server.log for word in texts), f"the log ends {server.log[-200:]!r}")


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
    with _folder(target) as folder:
        given = {"NIM_CUSTOM_MODEL": str(target.rank_dir), name: value}
        with started(folder, given) as server:
            expect(server.ends() not in (0, None), "it started")
            expect(name in server.log, "the message does not name the variable")


def _port_used(target: Target) -> None:
    with _folder(target) as folder:
        port = str(target.own.port) if target.own else ""
        given = {"NIM_CUSTOM_MODEL": str(target.rank_dir), "NIM_HTTP_API_PORT": port}
        with started(folder, given) as server:
            expect(server.ends() not in (0, None), "it started")
            expect(port in server.log, "the message does not name the port")


def _serves(target: Target, folder: Path, **options: object) -> None:
    given = {"NIM_CUSTOM_MODEL": str(target.rank_dir)}
    with started(folder, given, **options) as server:
        answered(_ask(server.ready()))
        server.signal(signal.SIGTERM)
        expect(server.ends() == 0, "no clean end")


def _ask(server: OwnServer, body: object = None, timeout_s: float = 60.0) -> httpx.Response:
    return server.http.post("/v1/ranking", json=body or ranking(), timeout=timeout_s)


def _other_user(target: Target) -> None:
    if os.getuid() != 0 or not _others_may_run():
        raise NotApplicable("needs root, and an interpreter that other users may run")
    with _folder(target) as folder:
        folder.chmod(0o755)
        _serves(target, folder, user=_NOBODY, group=_NOBODY, extra_groups=[])


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
    with _folder(target) as folder:
        probe = ["unshare", flags, "sh", "-c", f"{then} true"]
        if os.spawnvp(os.P_WAIT, probe[0], probe) != 0:
            raise NotApplicable("this machine allows no namespaces")
        _serves(target, folder, before=["unshare", flags, "sh", "-c", f'{then} exec "$@"', "sh"])


def _no_network(target: Target) -> None:
    """With loopback only: nothing can be fetched from elsewhere."""
    if os.getuid() != 0:
        raise NotApplicable("needs root")
    with _folder(target) as folder:
        pid = os.fork()
        if pid == 0:
            os._exit(_serve_alone(target, folder))
        found = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if found == _NO_NAMESPACE:
            raise NotApplicable("this machine allows no namespaces")
        expect(found == 0, "it does not serve without a network")


_NO_NAMESPACE = 77
_CLONE_NEWNET = 0x40000000
_SIOCSIFFLAGS, _UP = 0x8914, 1


def _serve_alone(target: Target, folder: Path) -> int:
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWNET) != 0:
        return _NO_NAMESPACE
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", _UP))
    try:
        _serves(target, folder)
    except Exception as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _slow_start(target: Target) -> None:
    """Live at once, ready only after an inference; a stop in between must be clean."""
    with _folder(target) as folder:
        given = {"NIM_CUSTOM_MODEL": str(write_model(folder / "model"))}
        pipe = folder / "pipe"
        os.mkfifo(pipe)
        for opens in (True, False):
            with started(folder, given, program=[HELD_SERVE, str(pipe)]) as server:
                expect(server.until("/v1/health/live", 200), "not live while the model loads")
                expect(server.status("/v1/health/ready") == 503, "ready before the model is")
                found = _ask(server)
                expect(found.status_code == 503, f"found {found.status_code} before ready")
                expect("retry-after" in found.headers, "no Retry-After")
                if opens:
                    pipe.open("wb").close()
                    server.ready()
                server.signal(signal.SIGTERM)
                expect(server.ends() == 0, "no clean end")


def _ends(number: int, wanted: int, target: Target) -> None:
    with _folder(target) as folder:
        given = {"NIM_CUSTOM_MODEL": str(target.rank_dir)}
        with started(folder, given) as server:
            server.ready()
            expect(not _children(server.process.pid), "it has child processes")
            server.signal(number)
            found = server.ends()
            expect(found == wanted, f"exit status {found}, wanted {wanted}")
            expect("Traceback" not in server.log, "a stack trace at the end")


def _children(pid: int) -> str:
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().strip()


def _under_load(target: Target) -> None:
    """Requests that came in time are answered; later ones are refused or cannot connect."""
    with _folder(target) as folder:
        given = {"NIM_CUSTOM_MODEL": str(target.rank_dir)}
        with started(folder, given) as server, ThreadPoolExecutor(8) as pool:
            server.ready()

            def ask(number: int) -> int:
                try:
                    body = ranking(*(f"load {number} {i}" for i in range(30)))
                    return _ask(server, body).status_code
                except (httpx.ConnectError, httpx.ReadError):
                    # Connections not yet accepted when the port closes are reset by the kernel.
                    return -1

            asked = [pool.submit(ask, number) for number in range(200)]
            time.sleep(_BEGUN_S)
            server.signal(signal.SIGTERM)
            expect(server.until("/v1/health/ready", 503), "ready does not flip first")
            found = [one.result() for one in asked]
            expect(set(found) <= {200, 503, -1}, f"found {sorted(set(found))}")
            expect(found.count(200) > 0, "nothing was answered")
            expect(server.ends() == 0, "no clean end")


@contextlib.contextmanager
def _busy_at_the_end(target: Target, drain_s: int) -> Iterator[tuple[OwnServer, socket.socket]]:
    """A server that gets SIGTERM while a request is still being sent to it."""
    with _folder(target) as folder:
        given = {
            "NIM_CUSTOM_MODEL": str(target.rank_dir),
            "RERANK_DRAIN_TIMEOUT_S": str(drain_s),
        }
        with started(folder, given) as server:
            server.ready()
            address = ("127.0.0.1", server.port)
            with socket.create_connection(address, timeout=START_S) as connected:
                connected.sendall(Target(server.url).head(_LENGTH) + BODY[:10])
                time.sleep(_BEGUN_S)
                server.signal(signal.SIGTERM)
                yield server, connected


def _drains(target: Target) -> None:
    with _busy_at_the_end(target, _LONG_S) as (server, connected):
        time.sleep(1.5)
        expect(server.process.poll() is None, "it did not wait")
        connected.sendall(BODY[10:])
        expect(connected.recv(100).startswith(b"HTTP/1.1 200"), "the request was not answered")
        expect(server.ends() == 0, "no clean end")


def _drain_ends(target: Target) -> None:
    with _busy_at_the_end(target, 1) as (server, connected):
        expect(connected.recv(100).startswith(b"HTTP/1.1 503"), "no 503 at the deadline")
        expect(server.ends() == 0, "no clean end")


def _second_sigterm(target: Target) -> None:
    with _busy_at_the_end(target, _LONG_S) as (server, _):
        while server.status("/v1/health/ready") == 200:
            time.sleep(0.05)  # let the first one arrive
        server.signal(signal.SIGTERM)
        # The shell's code: process 1 of a container cannot die of a signal.
        ended = server.ends()
        expect(ended == 128 + signal.SIGTERM, f"the second SIGTERM: exit status {ended}")


def _reload(target: Target) -> None:
    with _folder(target) as folder:
        good, link = folder / "good", folder / "served"
        shutil.copytree(str(target.rank_dir), good)
        bad = folder / "bad"
        shutil.copytree(good, bad)
        _flip(bad)
        link.symlink_to(good)
        given = {"NIM_CUSTOM_MODEL": str(link)}
        with started(folder, given) as server:
            before = _ask(server.ready()).json()
            for target_dir, texts in ((good, " ready: "), (bad, "reload refused")):
                (folder / "next").symlink_to(target_dir)
                (folder / "next").rename(link)
                before_count = server.log.count(texts)
                server.signal(signal.SIGHUP)
                end = time.monotonic() + START_S
                while server.log.count(texts) == before_count:
                    expect(time.monotonic() < end, f"no {texts.strip()!r} in the log")
                    expect(_ask(server).json() == before, "the answer changed")
            expect(server.status("/v1/health/ready") == 200, "not ready after a bad reload")


def _broken_pipe(target: Target) -> None:
    if target.own is None:
        raise NotApplicable("needs a server of our own")
    target.own.signal(signal.SIGPIPE)
    time.sleep(0.2)
    expect(target.own.process.poll() is None, "SIGPIPE ended it")


def _failing_engine(tokens: int, target: Target) -> None:
    with _folder(target) as folder:
        model = write_model(folder / "model")
        with started(folder, {"NIM_CUSTOM_MODEL": str(model)}) as server:
            server.ready()
            failed = _ask(server, ranking(passage(tokens), query="q"))
            expect(failed.status_code == 500, f"found {failed.status_code}")
            expect(
                "NaN" not in failed.text and "onnx" not in failed.text, "it tells what is inside"
            )
            answered(_ask(server, ranking("a", "bb", query="q")))
            expect("Traceback" not in server.log, "a stack trace for an engine's error")


def _neighbours_of_nan(target: Target) -> None:
    with _folder(target) as folder:
        model = write_model(folder / "model", work=1200)
        with (
            started(folder, {"NIM_CUSTOM_MODEL": str(model)}) as server,
            ThreadPoolExecutor(20) as p,
        ):
            server.ready()
            bodies = [
                ranking(passage(NAN_TOKENS if i == 7 else NAN_TOKENS - 1, f"{i:02}"), query="q")
                for i in range(20)
            ]
            found = [one.status_code for one in p.map(partial(_ask, server), bodies)]
            expect(found == [500 if i == 7 else 200 for i in range(20)], f"found {found}")


def _hanging_engine(target: Target) -> None:
    with _folder(target) as folder:
        model = write_model(folder / "model", work=work_of(4 * _PATIENCE_S))
        given = {"RERANK_ENGINE_PATIENCE_S": str(_PATIENCE_S), "NIM_REQUEST_TIMEOUT_S": "2"}
        with started(folder, {"NIM_CUSTOM_MODEL": str(model), **given}) as server:
            expect(server.until("/v1/health/live", 200), "not live at first")
            expect(server.until("/v1/health/live", 503), "live although the engine hangs")


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
    Fault(_START, "the port is taken", _port_used),
    Fault(_START, "live at once, ready after an inference", _slow_start),
    Fault(_START, "an arbitrary user", _other_user),
    Fault(_START, "a read-only root", partial(_unshared, "-m", _READ_ONLY)),
    Fault(_START, "no network", _no_network),
    Fault(_STOP, "SIGTERM, idle", partial(_ends, signal.SIGTERM, 0)),
    Fault(_STOP, "SIGINT, idle", partial(_ends, signal.SIGINT, 0)),
    Fault(_STOP, "SIGKILL leaves no orphans", partial(_ends, signal.SIGKILL, -signal.SIGKILL)),
    Fault(_STOP, "SIGTERM under load", _under_load),
    Fault(_STOP, "SIGTERM, and a request is finished", _drains),
    Fault(_STOP, "SIGTERM, and a request is not finished", _drain_ends),
    Fault(_STOP, "SIGTERM twice", _second_sigterm),
    Fault(_STOP, "SIGHUP with a good and a bad model", _reload),
    Fault(_STOP, "SIGPIPE", _broken_pipe),
    Fault(_ENGINE, "an engine that raises", partial(_failing_engine, FAIL_TOKENS + 1)),
    Fault(_ENGINE, "NaN from the engine", partial(_failing_engine, NAN_TOKENS)),
    Fault(_ENGINE, "neighbours of NaN", _neighbours_of_nan),
    Fault(_ENGINE, "an engine that hangs", _hanging_engine),
)
