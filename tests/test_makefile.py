"""What the Makefile does by itself, without a tool that has tests of its own."""

import subprocess
from pathlib import Path

_MAKEFILE = Path(__file__).resolve().parents[1] / "Makefile"


def test_clean_keeps_what_was_brought_along(tmp_path: Path) -> None:
    """Wheels in build/gpu come from another machine; nothing here makes them again."""
    brought = tmp_path / "build" / "gpu" / "onnxruntime_gpu.whl"
    for path in (brought, tmp_path / "build" / "bench" / "made", tmp_path / "artifacts" / "made"):
        path.parent.mkdir(parents=True)
        path.touch()
    subprocess.run(["make", "-f", _MAKEFILE, "clean"], cwd=tmp_path, check=True)
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == [brought]


def _listed(target: str) -> list[str]:
    """What `make help` or `make help-all` prints."""
    told = subprocess.run(["make", "-f", _MAKEFILE, target], capture_output=True, check=True)
    return told.stdout.decode().splitlines()


def test_help_shows_what_a_newcomer_needs() -> None:
    assert len(_listed("help")) == 15
    assert [line.split()[0] for line in _listed("help")][:2] == ["install", "serve"]


def test_help_all_shows_every_target_in_a_group() -> None:
    lines = _listed("help-all")
    (phony,) = (
        line for line in _MAKEFILE.read_text("utf-8").splitlines() if line.startswith(".PHONY:")
    )
    targets = sorted(line.split()[0] for line in lines if line.startswith("  "))
    assert targets == sorted(set(phony.split()[1:]) - {"help"})
    assert not lines[0].startswith(" ")
