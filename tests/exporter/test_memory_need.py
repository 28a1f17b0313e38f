"""The need of a large export, from shapes alone."""

from pathlib import Path

import pytest

from exporter import memory_need as module
from exporter.memory_need import memory_need
from exporter.weights import Stored
from runtime.profile import Precision


def weights(*shapes: tuple[int, ...]) -> dict[str, Stored]:
    return {str(n): Stored(Path("x"), str(n), shape) for n, shape in enumerate(shapes)}


def qwen3(hidden: int, inner: int) -> dict[str, Stored]:
    """The shapes of Qwen3-Reranker-4B and -8B as they are exported: 36 layers, the table of words,
    and one row of the head."""
    layer = [(4096, hidden), (1024, hidden), (1024, hidden), (hidden, 4096)]
    layer += [(inner, hidden)] * 3
    return weights((151669, hidden), (1, hidden), *layer * 36)


def test_a_small_checkpoint_needs_no_word() -> None:
    assert memory_need(weights((1000, 1000), (7,)), "fp32") is None


@pytest.mark.parametrize(
    ("hidden", "inner", "precision", "wanted"),
    [
        (2560, 9728, "fp32", "16.1 GB in float32: the export needs some 26 GB"),
        (2560, 9728, "bf16", "16.1 GB in float32: the export needs some 26 GB"),
        (2560, 9728, "int8", "16.1 GB in float32: the export needs some 34 GB"),
        (4096, 12288, "fp32", "30.3 GB in float32: the export needs some 48 GB"),
        (4096, 12288, "int8-weights", "30.3 GB in float32: the export needs some 64 GB"),
    ],
)
def test_a_large_one_says_its_need(
    hidden: int, inner: int, precision: Precision, wanted: str
) -> None:
    assert wanted in str(memory_need(qwen3(hidden, inner), precision))


def test_it_says_what_is_free_where_the_system_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = qwen3(2560, 9728)
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable: 12000000 kB\n")
    monkeypatch.setattr(module, "_MEMORY", tmp_path / "meminfo")
    assert "26 GB of memory (12 GB are free), and" in str(memory_need(found, "fp32"))
    monkeypatch.setattr(module, "_MEMORY", tmp_path / "absent")
    assert "26 GB of memory, and" in str(memory_need(found, "fp32"))
