"""Whatever uses the GPU waits while another thread captures a CUDA graph."""

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from runtime import engines
from runtime.engines import EngineSetup, gpu_errors, tensorrt
from runtime.engines import ort as ort_engine
from runtime.engines.gpu_use import GpuUse
from tests.runtime.engines.test_ort import ROWS, on_cpu
from tests.runtime.engines.test_tensorrt import load, rows_of
from tests.waiting import PATIENCE_S


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> GpuUse:
    """Who uses the GPU, this test alone."""
    found = GpuUse()
    for module in (engines, gpu_errors, ort_engine, tensorrt):
        monkeypatch.setattr(module, "GPU_USE", found)
    return found


def assert_it_waits(use: GpuUse, action: Callable[[], object]) -> None:
    thread = threading.Thread(target=action)
    with use.alone() as alone:
        assert alone
        thread.start()
        thread.join(0.05)  # it would be through by then
        assert thread.is_alive()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()


def test_a_plan_waits_when_it_runs_and_when_it_is_closed(use: GpuUse, tmp_path: Path) -> None:
    (tmp_path / "model.plan").write_bytes(b"plan of a model")
    engine, plan, _ = load(tmp_path / "model.plan")
    assert_it_waits(use, lambda: engine.run(rows_of(2, 5)))
    assert len(plan.computed) == 1
    assert_it_waits(use, engine.close)


def test_a_session_waits_when_it_runs_and_when_it_is_closed(
    use: GpuUse, bare_directory: Path
) -> None:
    engine = on_cpu(bare_directory, EngineSetup())
    assert_it_waits(use, lambda: engine.run(ROWS))
    assert_it_waits(use, engine.close)
    assert engine._session is None


@pytest.mark.parametrize("name", engines.GPU_ENGINES)
def test_opening_an_engine_waits(
    use: GpuUse, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[Any] = []
    module = SimpleNamespace(open_engine=lambda *given: opened.append(given))
    monkeypatch.setitem(sys.modules, "stand_in_engine", module)  # type: ignore[arg-type]
    monkeypatch.setitem(engines.ENGINES, name, ("stand_in_engine", None))
    monkeypatch.setattr(engines, "find_gpu", lambda: "a GPU")
    assert_it_waits(use, lambda: engines.open_engine(name, tmp_path))
    assert len(opened) == 1


def test_asking_whether_the_device_is_lost_waits(
    use: GpuUse, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(gpu_errors, "open_cuda", lambda: SimpleNamespace(wait=asked.append))
    assert_it_waits(
        use, lambda: gpu_errors.classify_gpu_error("tensorrt", "CUBLAS failure 14: internal")
    )
    assert asked == [0]
