"""`make test-gpu` without a GPU: it says so, and checks that need none run on the CPU."""

import io
import struct
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from checks.gpu.__main__ import main
from checks.gpu.bundled import use_bundled
from checks.gpu.cases import tau
from checks.gpu.models import padded_inputs
from checks.gpu.pack import main as main_of_pack
from checks.gpu.pack import pack

ROOT = Path(__file__).resolve().parents[2]
# Modules that the machine with the GPU may not have.
_WITHOUT = """
import sys
from importlib.machinery import PathFinder

ABSENT = {"msgspec", "litestar", "pytest", "onnxruntime", "tensorrt"}

class Finder(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in ABSENT else PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Finder
"""


def test_without_a_gpu_it_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert main([]) == 1
    assert capsys.readouterr().out.startswith("no GPU found")


@pytest.mark.heavy
@pytest.mark.parametrize("model", ["tiny", "qwen3-tiny"])
def test_what_needs_no_gpu_runs_on_the_cpu(capsys: pytest.CaptureFixture[str], model: str) -> None:
    chosen = ["onnx_fp16", "cuda_fp16", "cuda_lean", "neighbours", "cuda_graphs", "memory"]
    assert main(["--device", "cpu", "--model", model, "--only", *chosen]) == 0
    lines = capsys.readouterr().out.splitlines()
    states = {line.split()[0]: line[26:35].strip() for line in lines[1:-1]}
    assert states == {**dict.fromkeys(chosen, "passed"), "memory": "not here"}
    assert lines[-1] == "5 passed, 0 FAILED, 1 not here"


def test_a_check_that_fails_is_told_and_the_others_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(machine: object) -> str:
        raise RuntimeError("no kernel image")

    def sound(machine: object) -> str:
        return "fine"

    monkeypatch.setattr("checks.gpu.cases.CHECKS", (broken, sound))
    assert main(["--device", "cpu", "--model", "tiny"]) == 1
    out = capsys.readouterr().out
    assert "FAILED" in out
    assert "RuntimeError: no kernel image" in out
    assert out.splitlines()[-1] == "1 passed, 1 FAILED, 0 not here"


def test_a_check_that_there_is_not_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("checks.gpu.cases.CHECKS", ())
    with pytest.raises(SystemExit, match="found cuda_graph, wanted"):
        main(["--device", "cpu", "--only", "cuda_graph"])


def test_a_bare_machine_can_import_what_lays_out_calls_and_makes_them() -> None:
    """Quickly; the test below imports PyTorch and the rest."""
    code = f"{_WITHOUT}\nimport runtime.text, runtime.scheduling.scheduler, runtime.engines.ort"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


@pytest.mark.heavy
def test_a_bare_machine_can_import_the_checks_and_the_bench() -> None:
    code = f"{_WITHOUT}\nimport checks.gpu.cases, benchmarks.gpu.bench"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)


def test_wheels_and_pieces_that_were_brought_along_are_unpacked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert use_bundled(tmp_path / "nothing") == []
    with zipfile.ZipFile(tmp_path / "one-1.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("brought_one.py", "value = 1\n")
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz") as tar:
        content = b"value = 2\n"
        info = tarfile.TarInfo("brought_two.py")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    data = packed.getvalue()
    (tmp_path / "two.tar.xz.00").write_bytes(data[:50])
    (tmp_path / "two.tar.xz.01").write_bytes(data[50:])
    wanted = ["one-1.0-py3-none-any.whl", "two.tar.xz.00"]
    assert use_bundled(tmp_path) == use_bundled(tmp_path) == wanted
    for name in ("brought_one", "brought_two"):
        assert (tmp_path / "site" / f"{name}.py").is_file()
    assert sys.path[0] == str(tmp_path / "site")


def test_a_packed_wheel_is_what_use_bundled_unpacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    content = {"big/__init__.py": b"", "big/library.so": np.random.default_rng(0).bytes(5000)}
    wheel = tmp_path / "big-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    folder = tmp_path / "build" / "gpu"
    pack(wheel, folder, most=400)
    names = pack(wheel, folder, most=2000)
    assert names == [f"big-1.0-py3-none-any.tar.xz.{number:02}" for number in range(3)]
    assert sorted(path.name for path in folder.iterdir()) == names
    assert all((folder / name).stat().st_size <= 2000 for name in names)
    assert use_bundled(folder) == names[:1]
    for name, data in content.items():
        assert (folder / "site" / name).read_bytes() == data
    assert main_of_pack([str(wheel), "--out", str(tmp_path / "other")]) == 0
    assert "1 pieces in" in capsys.readouterr().out


def test_code_for_other_cards_is_left_out_of_a_packed_wheel(tmp_path: Path) -> None:
    """A library with a fat binary of three images, and the magic's bytes by chance."""

    def image(kind: int, capability: int, code: bytes) -> bytes:
        header = struct.pack("<HHIQ12xI32x", kind, 0, 64, len(code), capability)
        return header + code

    images = (image(2, 80, b"a" * 40), image(2, 90, b"b" * 40), image(1, 90, b"c" * 40))
    fat = struct.pack("<4sHHQ", b"\x50\xed\x55\xba", 1, 16, sum(map(len, images)))
    library = b"ELF" + b"\x50\xed\x55\xba" + b"x" * 30 + fat + b"".join(images) + b"rest"
    wheel = tmp_path / "ort-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("ort/capi/libonnxruntime_providers_cuda.so", library)
        archive.writestr("ort/capi/libonnxruntime.so.1.31.1", b"for programs in C")
    (piece,) = pack(wheel, tmp_path / "out", keep=[90])
    with tarfile.open(tmp_path / "out" / piece, "r:xz") as tar:
        (member,) = tar.getmembers()
        file = tar.extractfile(member)
        assert file is not None
        found = file.read()
    assert found == library.replace(b"a" * 40, bytes(40)).replace(b"c" * 40, bytes(40))


def test_tau_counts_pairs() -> None:
    assert tau(np.asarray([1.0, 2.0, 3.0]), np.asarray([10.0, 20.0, 30.0])) == 1.0
    assert tau(np.asarray([3.0, 2.0, 1.0]), np.asarray([10.0, 20.0, 30.0])) == -1.0


def test_rows_are_padded_on_either_side() -> None:
    assert padded_inputs([[1, 2], [3]], "left")["input_ids"].tolist() == [[1, 2], [0, 3]]
    assert padded_inputs([[1, 2], [3]])["attention_mask"].tolist() == [[1, 1], [1, 0]]
