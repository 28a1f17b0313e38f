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
