"""Nothing that is shipped unpickles, or lets data bring code."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
_PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
SHIPPED = ["rerank_client", *_PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]]
MODULES = {"cloudpickle", "dill", "joblib", "marshal", "pickle", "shelve"}
CALLS = {"eval", "exec", "compile"}


def is_(node: ast.expr | None, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


def code_from_data(source: str) -> Iterator[str]:
    """The expressions that could run what they read."""
    for node in ast.walk(ast.parse(source)):
        names: set[str] = set()
        bad = False
        if isinstance(node, ast.Import):
            names = {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names = {(node.module or "").split(".")[0]}
        elif isinstance(node, ast.Call):
            called = node.func.id if isinstance(node.func, ast.Name) else None
            given = {keyword.arg: keyword.value for keyword in node.keywords}
            unpickles = isinstance(node.func, ast.Attribute) and node.func.attr == "load"
            bad = (
                called in CALLS
                or (
                    unpickles
                    and ast.unparse(node.func) == "torch.load"
                    and not is_(given.get("weights_only"), True)
                )
                or ("trust_remote_code" in given and not is_(given["trust_remote_code"], False))
            )
        if bad or names & MODULES:
            yield ast.unparse(node)


def test_no_code_comes_from_data() -> None:
    files = {path for room in SHIPPED for path in (ROOT / room).rglob("*.py")}
    assert len(files) > 100
    found = {str(path): list(code_from_data(path.read_text("utf-8"))) for path in files}
    assert {path: bad for path, bad in found.items() if bad} == {}


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from joblib import load",
        "eval(text)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "AutoModel.from_pretrained(path, trust_remote_code=flag)",
    ],
)
def test_what_would_run_data_is_seen(source: str) -> None:
    assert list(code_from_data(source)) == [source]
