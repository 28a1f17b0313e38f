"""check-tensorrt's second part: what it tells of a graph."""

from pathlib import Path

import pytest

from checks.tensorrt_graphs import PINS, Result, family_results, pinned_version, problems


@pytest.mark.parametrize(
    ("version", "complaints", "told"),
    [
        ("10.14", [], []),
        ("10.16", [], []),
        ("11.0", [], ["needs 11.0, found 10.16.1.11"]),
        (None, ["Frobnicate (a): no version knows it"], ["Frobnicate (a): no version knows it"]),
    ],
)
def test_what_the_pinned_version_does_not_take_is_a_problem(
    version: str | None, complaints: list[str], told: list[str]
) -> None:
    result = Result("bert", ["tensorrt-fp16"], "model.onnx", 9, version, complaints)
    assert problems(result, "10.16.1.11") == told


def test_the_pin_is_that_of_the_image() -> None:
    pins = Path("constraints.txt").read_text("utf-8").split()
    (wanted,) = (pin for pin in pins if pin.startswith("tensorrt-cu13=="))
    assert wanted.endswith(f"=={pinned_version(PINS.read_text('utf-8'))}")


@pytest.mark.heavy
@pytest.mark.parametrize("family", ["llama", "vl"])
def test_every_target_of_a_family_is_held_against_the_table(family: str) -> None:
    found = family_results(family)
    assert [result.complaints for result in found] == [[]] * len(found)
    texts = {name for one in found if one.file == "model.onnx" for name in one.targets}
    assert {"tensorrt-bf16", "tensorrt-fp16-4096", "tensorrt-fp16-lengths"} <= texts
    (told,) = (
        one for one in found if one.targets == ["tensorrt-fp16-lengths"] and "model" in one.file
    )
    assert told.version == "11.1"
    assert ("tensorrt-fp8" in texts) == (family == "llama")
    assert any(one.file == "vision.onnx" for one in found) == (family == "vl")
