"""Weights that an engine has read are no longer resident, and still there to be read."""

import mmap
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from runtime.engines import mapped_weights, open_engine
from runtime.engines.mapped_weights import MappedWeights, mapped_ranges

MAPS = """\
7f00-8f00 r--p 00000000 fe:00 10                         /models/rank/model.onnx.data
8f00-9f00 r--s 00000000 fe:00 11                         /models/rank/model.onnx
9f00-af00 rw-p 00000000 fe:00 12                         /models/rank/model.onnx.data
af00-bf00 r--p 00000000 fe:00 13                         /models/rank/vision.onnx.data
bf00-cf00 rw-p 00000000 00:00 0
cf00-df00 r--p 00000000 fe:00 14                         /models/a folder/model.onnx.data (deleted)
"""
linux_only = pytest.mark.skipif(
    not mapped_weights._MAPS.is_file(), reason="the memory map of a process is Linux's"
)


def resident(mapping_of: Path) -> int:
    """The resident bytes of the mappings of a file (proc_pid_smaps(5))."""
    total, ours = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        key, _, value = line.partition(":")
        if "-" in key.split(" ")[0]:
            ours = line.endswith(str(mapping_of))
        elif ours and key == "Rss":
            total += int(value.split()[0]) * 1024
    return total


def test_only_read_only_mappings_of_the_model_file_count() -> None:
    assert mapped_ranges(MAPS, Path("/models/rank/model.onnx")) == [
        (0x7F00, 0x1000),
        (0x8F00, 0x1000),
    ]
    assert mapped_ranges(MAPS, Path("/models/a folder/model.onnx")) == [(0xCF00, 0x1000)]
    assert mapped_ranges("", Path("/models/rank/model.onnx")) == []


@linux_only
def test_pages_that_were_read_are_given_back_and_keep_their_contents(tmp_path: Path) -> None:
    data = tmp_path / "model.onnx.data"
    data.write_bytes(bytes(range(256)) * 8192)
    with data.open("rb") as file:
        weights = MappedWeights(
            tmp_path / "model.onnx",
            lambda: mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ),
        )
    wanted = data.read_bytes()
    with weights.released():
        assert weights.graph[:] == wanted
    assert resident(data) == 0
    assert weights.graph[:] == wanted


@linux_only
def test_a_mapping_that_was_there_before_is_left_alone(tmp_path: Path) -> None:
    """Another engine may end it at any time, and something else may take its place."""
    data = tmp_path / "model.onnx.data"
    data.write_bytes(b"1" * 65536)
    with data.open("rb") as file:
        earlier = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    read = earlier[:]
    weights = MappedWeights(tmp_path / "model.onnx", lambda: None)
    with weights.released():
        pass
    assert resident(data)
    assert earlier[:] == read


def test_elsewhere_than_on_linux_nothing_happens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mapped_weights, "_MAPS", tmp_path / "none")
    weights = MappedWeights(tmp_path / "model.onnx", lambda: "graph")
    with weights.released():
        assert weights.graph == "graph"


@linux_only
def test_openvino_maps_weights_and_keeps_them_mapped_until_the_first_call_has_ended(
    rank_artifact: Path, tmp_path: Path
) -> None:
    """What is given back would otherwise be somebody else's memory."""
    model = onnx.load(rank_artifact / "model.onnx")
    onnx.save(
        model,
        tmp_path / "model.onnx",
        save_as_external_data=True,
        location="model.onnx.data",
        size_threshold=0,
    )
    ids = np.arange(1, 9)[None]
    inputs = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    plain: Any = open_engine("onnxruntime-cpu", rank_artifact)
    wanted = plain.run(inputs)["logits"]
    engine: Any = open_engine("openvino-fp32", tmp_path)
    weights = engine._weights
    mapped = mapped_weights._mapped_now(tmp_path / "model.onnx")
    assert weights._ranges
    assert weights._ranges <= mapped
    found = engine.run(inputs)["logits"]
    assert weights._ranges <= mapped_weights._mapped_now(tmp_path / "model.onnx")
    np.testing.assert_allclose(found, wanted, atol=1e-4)
    np.testing.assert_allclose(engine.run(inputs)["logits"], wanted, atol=1e-4)
    assert engine._weights is None
    engine.close()
    plain.close()


@linux_only
def test_names_of_other_files_need_not_be_utf_8(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maps = tmp_path / "maps"
    line = b"7f00-8f00 r--p 00000000 fe:00 10 "
    maps.write_bytes(line + b"/\xff.so\n" + line + bytes(tmp_path / "model.onnx.data") + b"\n")
    monkeypatch.setattr(mapped_weights, "_MAPS", maps)
    assert mapped_weights._mapped_now(tmp_path / "model.onnx") == {(0x7F00, 0x1000)}
