"""The service alone: models that are replaced, and what goes wrong meanwhile."""

import asyncio
import errno
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from runtime.engines.mock import MockEngine
from runtime.errors import (
    ArtifactError,
    DeviceLost,
    EngineError,
    EngineUnreachable,
    ModelClosed,
    OutOfMemory,
    ServingError,
)
from runtime.manifest import read_manifest, write_manifest
from runtime.model import Model
from runtime.profile import Kind
from runtime.ranker import Ranker
from runtime.requests import RankRequest
from runtime.tokenizing import TokenizerPool
from server import loading, reloading
from server.app import routed
from server.call import Call
from server.loading import load, start
from server.names import triton_name
from server.reloading import reload_model, reloading_on_signal
from server.service import Service
from server.settings import Settings, read_settings
from server.surfaces import kserve
from tests.waiting import PATIENCE_S, retiring, wait_until

_open = loading.open_served


class PanicException(BaseException):
    """What Rust's panics are in Python."""


def settings(**given: str) -> Settings:
    return read_settings({"ENABLE_MOCK_INFERENCE": "1", **given})


@pytest.fixture
def service(monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """The mock's reranker and embedder."""
    monkeypatch.setattr(reloading, "_RETIRE_DELAY_S", 0.2)
    monkeypatch.setattr(loading, "_WATCHDOG_INTERVAL_S", 0.05)
    started = Service(settings())
    start(started)
    wait_until(lambda: started.loaded)
    yield started
    started.close()
    wait_until(lambda: not retiring())


def opening(monkeypatch: pytest.MonkeyPatch, before: Callable[[Kind | None], None]) -> None:
    """Call `before` with the kind of every model that opens from now on."""

    def open_after(settings: Settings, kind: Kind | None, directory: Path | None) -> Any:
        before(kind)
        return _open(settings, kind, directory)

    monkeypatch.setattr(loading, "open_served", open_after)


def test_a_model_that_hung_is_not_swapped_in(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its last call ends while the model is being closed for it, and warm-up ends well."""
    last, closing = threading.Event(), threading.Event()
    warm_up, close, compute = Model.warm_up, Model.close, MockEngine.run
    hanging: list[Model] = []
    states: list[tuple[bool, bool]] = []

    def warm_up_and_hang(self: Ranker) -> None:
        warm_up(self)
        hanging.append(self)
        # Only now: a stall of the machine is no call that hangs.
        patch.setattr(service, "settings", replace(service.settings, engine_patience_s=1))
        last.set()
        self.rank(RankRequest("q", ["p"]))

    def recorded_close(self: Model) -> None:
        if self in hanging:
            states.append((service.live, service.ready))
            closing.set()
        close(self)

    def late(self: MockEngine, inputs: Any) -> Any:
        assert not last.is_set() or closing.wait(PATIENCE_S)
        return compute(self, inputs)

    with monkeypatch.context() as patch:
        patch.setattr(Model, "warm_up", warm_up_and_hang)
        patch.setattr(Model, "close", recorded_close)
        patch.setattr(MockEngine, "run", late)
        with pytest.raises(EngineError, match="the new model does not compute"):
            reload_model(service, "rank")
    # The model that is served is as well as before.
    assert set(states) == {(True, True)}
    assert len(service.ranker.rank(RankRequest("q", ["a", "b"])).order) == 2
    reload_model(service, "rank")
    assert len(service.ranker.rank(RankRequest("q", ["a", "b"])).order) == 2


def test_a_model_that_is_ready_when_all_close_is_closed(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    new: list[Any] = []
    inherit_estimates = Model.inherit_estimates

    def close_meanwhile(self: Model, before: Model) -> None:
        new.append(self)
        service.close()
        inherit_estimates(self, before)

    monkeypatch.setattr(Model, "inherit_estimates", close_meanwhile)
    with pytest.raises(ModelClosed):
        reload_model(service, "rank")
    with pytest.raises(ModelClosed):
        new[0].rank(RankRequest("q", ["p"]))


def test_a_model_that_warms_up_when_the_process_is_stopping_is_closed(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its engine hangs, which nobody waits for."""
    closing = threading.Event()
    close = Model.close

    def warm_up_for_ever(self: Model) -> None:
        service.stopping = True
        assert closing.wait(PATIENCE_S)
        raise ModelClosed

    def recorded_close(self: Model) -> None:
        closing.set()
        close(self)

    monkeypatch.setattr(Model, "warm_up", warm_up_for_ever)
    monkeypatch.setattr(Model, "close", recorded_close)
    with pytest.raises(ModelClosed):
        reload_model(service, "rank")


def test_a_model_is_not_ready_while_the_process_ends(service: Service) -> None:
    async def ready() -> int:
        transport = httpx.ASGITransport(routed(list(kserve.SURFACE.controllers), service))
        async with httpx.AsyncClient(transport=transport, base_url="http://in.process") as client:
            path = f"/v2/models/{triton_name(service.primary.name)}/ready"
            return (await client.get(path)).status_code

    assert asyncio.run(ready()) == 200
    service.stopping = True
    assert asyncio.run(ready()) == 503


def test_reloads_in_a_row_have_one_more_model_in_memory(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[int] = []

    def count(_: Kind | None) -> None:
        found.append(sum(served.before is not None for served in service.all_served))

    opening(monkeypatch, count)
    for kind in ("rank", "rank", "embed", "rank"):
        reload_model(service, kind)
    assert found == [0, 0, 0, 0]


def test_a_model_that_retires_answers_whoever_has_begun(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that is tokenised and not yet queued, while its model is looked at."""
    learn, idle = TokenizerPool._update_estimate, Model.idle
    held, released = threading.Event(), threading.Event()
    looks: list[bool] = []

    def hold(self: TokenizerPool, request: RankRequest, encodings: Any) -> None:
        learn(self, request, encodings)
        if len(request.texts) == 3:
            held.set()
            assert released.wait(PATIENCE_S)

    def look(self: Model) -> bool:
        looks.append(idle(self))
        return looks[-1]

    monkeypatch.setattr(TokenizerPool, "_update_estimate", hold)
    monkeypatch.setattr(Model, "idle", look)
    with ThreadPoolExecutor(1) as pool:
        begun = pool.submit(asyncio.run, Call(service).rank(RankRequest("q", ["a", "bb", "ccc"])))
        assert held.wait(PATIENCE_S)
        reload_model(service, "rank")
        wait_until(lambda: len(looks) > 0)
        assert not looks[0]
        released.set()
        assert len(begun.result().order) == 3


def test_a_disk_s_time_out_is_reported_as_such(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    def time_out(_: Kind | None) -> None:
        raise OSError(errno.ETIMEDOUT, "the disk is gone")

    opening(monkeypatch, time_out)
    with pytest.raises(TimeoutError, match="the disk is gone"):
        reload_model(service, "rank")


@pytest.mark.parametrize("error", [ArtifactError("bad"), PanicException("worse")])
def test_what_keeps_the_reranker_does_not_keep_the_embedder(
    service: Service,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    error: BaseException,
) -> None:
    refused: list[Kind | None] = ["rank"]

    def refuse(kind: Kind | None) -> None:
        if kind in refused:
            raise error

    opening(monkeypatch, refuse)
    monkeypatch.setattr(os, "isatty", lambda _: False)
    before = service.ranker, service.embedder
    with reloading_on_signal(service):
        os.kill(os.getpid(), signal.SIGHUP)
        wait_until(lambda: service.embedder is not before[1])
        assert service.ranker is before[0]
        assert "rank: reload " in caplog.text
        refused.clear()
        os.kill(os.getpid(), signal.SIGHUP)  # the next one is heard, too
        wait_until(lambda: service.ranker is not before[0])


def test_signals_while_a_reload_runs_are_one_more_behind_it(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Kind | None] = []
    waiting, go_on = threading.Event(), threading.Event()

    def wait(kind: Kind | None) -> None:
        opened.append(kind)
        waiting.set()
        assert go_on.wait(PATIENCE_S)

    opening(monkeypatch, wait)
    monkeypatch.setattr(os, "isatty", lambda _: False)
    before = service.ranker
    with reloading_on_signal(service):
        os.kill(os.getpid(), signal.SIGHUP)
        assert waiting.wait(PATIENCE_S)
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGHUP)
        assert service.ranker is before
        go_on.set()
        wait_until(lambda: len(opened) == 4 and not service.reload_lock.locked())
    assert opened == ["rank", "embed"] * 2


def test_a_look_at_a_lost_engine_tells_nobody_and_the_watch_tells_once(
    service: Service, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    polled = threading.Semaphore(0)

    models: tuple[Model, ...] = (service.ranker, service.embedder)

    def ail(self: Model, patience_s: float) -> str | None:
        if self not in models:  # of another test
            return None
        if "must be restarted" in caplog.text:
            polled.release()
        return f"an engine call has been running for {patience_s} s"

    monkeypatch.setattr(Model, "fault", ail)
    state = dict(vars(service))
    assert [service.live, service.live, service.health_state().live] == [False] * 3
    assert not service.ready
    assert vars(service) == state
    for _ in range(4):  # looks after the line
        assert polled.acquire(timeout=PATIENCE_S)
    assert caplog.text.count("must be restarted") == 1


def test_a_start_ends_when_opening_panics(monkeypatch: pytest.MonkeyPatch) -> None:
    def panic(_: Kind | None) -> None:
        raise PanicException

    given_up = threading.Event()
    opening(monkeypatch, panic)
    monkeypatch.setattr(loading, "abort_start", lambda _: given_up.set())
    service = Service(settings())
    start(service)
    assert given_up.wait(PATIENCE_S)
    service.close()


def test_a_small_body_limit_leaves_room_for_many_bodies() -> None:
    async def hold(service: Service) -> None:
        with service.body_budget.reservation() as room:
            room.add(200 << 20)

    service = Service(settings(NIM_HTTP_BODY_LIMIT_BYTES="100000"))
    asyncio.run(hold(service))
    service.close()


FAULTS = [EngineError("no"), OutOfMemory(), DeviceLost(), EngineUnreachable(), MemoryError()]


def fail_with(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(MockEngine, "run", fail)


@pytest.mark.parametrize("error", FAULTS)
@pytest.mark.parametrize("kind", ["rank", "embed"])
def test_a_reload_that_fails_leaves_nothing_behind(
    service: Service, monkeypatch: pytest.MonkeyPatch, kind: Kind, error: Exception
) -> None:
    before, threads = service.served(kind), set(threading.enumerate())
    with monkeypatch.context() as patch:
        fail_with(error, patch)
        with pytest.raises(ServingError):
            reload_model(service, kind)
    wait_until(lambda: set(threading.enumerate()) <= threads)
    assert service.served(kind) is before
    assert service.ready
    assert len(service.ranker.rank(RankRequest("q", ["a", "b"])).order) == 2
    reload_model(service, kind)


def test_a_model_is_retired_where_no_more_threads_are_to_be_had(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    start = threading.Thread.start

    def start_others(self: threading.Thread) -> None:
        if "_retire" in self.name:
            raise RuntimeError("can't start new thread")
        start(self)

    monkeypatch.setattr(threading.Thread, "start", start_others)
    for _ in range(2):
        reload_model(service, "rank")
        assert service.served("rank").before is None


def test_a_second_model_that_cannot_start_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    threads = set(threading.enumerate())
    warm_up = Model.warm_up

    def fail(self: Model) -> None:
        if self.info.kind == "embed":
            raise OutOfMemory
        warm_up(self)

    given_up = threading.Event()
    monkeypatch.setattr(Model, "warm_up", fail)
    monkeypatch.setattr(loading, "abort_start", lambda _: given_up.set())
    service = Service(settings())
    start(service)
    assert given_up.wait(PATIENCE_S)
    service.close()
    wait_until(lambda: set(threading.enumerate()) <= threads)


@pytest.fixture
def artifact(rank_artifact: Path, tmp_path: Path) -> Path:
    return shutil.copytree(rank_artifact, tmp_path / "artifact")


@pytest.fixture
def of_artifact(artifact: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Service]:
    """A service of the proven artifact."""
    monkeypatch.setattr(reloading, "_RETIRE_DELAY_S", 0.0)
    service = Service(read_settings({"RERANK_MODEL_DIR": str(artifact)}))
    load(service)
    yield service
    service.close()
    wait_until(lambda: not retiring())


@pytest.mark.parametrize(
    "put",
    [
        str,
        Path.mkdir,
        os.mkfifo,
        lambda path: path.symlink_to("nowhere"),
        lambda path: path.write_text("{"),
    ],
    ids=["absent", "directory", "FIFO", "dangling", "half"],
)
def test_a_proven_model_is_never_replaced_by_a_guess(
    of_artifact: Service, artifact: Path, put: Callable[[Path], object]
) -> None:
    before = of_artifact.primary
    (artifact / "manifest.json").unlink()
    put(artifact / "manifest.json")
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        reload_model(of_artifact, "rank")
    assert of_artifact.primary is before
    assert of_artifact.ready
    assert len(of_artifact.ranker.rank(RankRequest("q", ["a", "b"])).order) == 2


def test_a_proven_model_may_be_replaced_by_one_of_another_name(
    of_artifact: Service, artifact: Path, caplog: pytest.LogCaptureFixture
) -> None:
    manifest = read_manifest(artifact)
    write_manifest(artifact, msgspec.structs.replace(manifest, model_id="org/another"))
    reload_model(of_artifact, "rank")
    assert of_artifact.primary.name == "org/another"
    assert f"rank: served as org/another from now on, not as {manifest.model_id}" in caplog.text


def test_an_unproven_model_may_become_proven(
    artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reloading, "_RETIRE_DELAY_S", 0.0)
    manifest = (artifact / "manifest.json").rename(artifact / "kept")
    service = Service(read_settings({"RERANK_MODEL_DIR": str(artifact)}))
    load(service)
    assert not service.ranker.info.proven
    reload_model(service, "rank")  # one that is not proven stands in for another
    manifest.rename(artifact / "manifest.json")
    reload_model(service, "rank")
    assert service.ranker.info.proven
    service.close()
    wait_until(lambda: not retiring())
