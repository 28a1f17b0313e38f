"""The need of a large export, from shapes alone."""

from pathlib import Path

import pytest

from exporter import memory_need as module
from exporter.memory_need import memory_need
from exporter.weights import Stored


def weights(*shapes: tuple[int, ...]) -> dict[str, Stored]:
    return {str(n): Stored(Path("x"), str(n), shape) for n, shape in enumerate(shapes)}


def test_a_small_checkpoint_needs_no_word() -> None:
    assert memory_need(weights((1000, 1000), (7,))) is None


def test_a_large_one_says_its_need_and_what_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shape of Qwen3-Reranker-4B: 36 layers and a table of words."""
    layer = [(4096, 2560), (1024, 2560), (1024, 2560), (2560, 4096), *[(9728, 2560)] * 3]
    found = weights((151669, 2560), *layer * 36)
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable: 12000000 kB\n")
    monkeypatch.setattr(module, "_MEMORY", tmp_path / "meminfo")
    said = memory_need(found)
    assert said is not None
    assert "are 16.1 GB in float32: the export needs some 26 GB of memory (12 GB are free)" in said
    monkeypatch.setattr(module, "_MEMORY", tmp_path / "absent")
    assert "26 GB of memory, and" in str(memory_need(found))
