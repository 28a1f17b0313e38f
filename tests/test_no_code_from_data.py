"""Nothing that is shipped unpickles, or lets data bring code."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ("exporter", "rerank_client", "runtime", "server")
MODULES = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
CALLS = {"eval", "exec", "compile"}


@pytest.mark.parametrize(
    "path", [p for room in SHIPPED for p in (ROOT / room).rglob("*.py")], ids=str
)
def test_no_code_comes_from_data(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text())):
        names = {a.name.split(".")[0] for a in getattr(node, "names", ()) if hasattr(a, "name")}
        if isinstance(node, ast.Import | ast.ImportFrom):
            names.add((getattr(node, "module", None) or "").split(".")[0])
            assert not names & MODULES
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in CALLS
            if called == "torch.load":
                assert any(k.arg == "weights_only" for k in node.keywords)
            trusting = [k for k in node.keywords if k.arg == "trust_remote_code"]
            assert all(ast.unparse(k.value) == "False" for k in trusting)
