"""The Python model of the repository, in a process of ours: what it opens the artifact with."""

import importlib.util
import json
import sys
from importlib import resources
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from runtime import opening

CONFIG = json.dumps({"output": [{"name": "logits"}]})


def opened(monkeypatch: pytest.MonkeyPatch, value: str | None) -> dict[str, Any]:
    """The arguments with which model.py opens its artifact, with that value of the setting."""
    args: dict[str, Any] = {}

    def open_ranker(directory: Path, **given: Any) -> Any:
        args.update(given)
        return opening.mock_model("rank")

    name = "NIM_TRT_ENGINE_HOST_CODE_ALLOWED"
    monkeypatch.delenv(name, raising=False)
    if value is not None:
        monkeypatch.setenv(name, value)
    # Triton's own, which only its Python has.
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", ModuleType("backend"))
    place = resources.files("exporter.triton").joinpath("model.py")
    spec = importlib.util.spec_from_file_location("model", str(place))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    monkeypatch.setattr(module, "open_ranker", open_ranker)
    model = module.TritonPythonModel()
    model.initialize({"model_config": CONFIG})
    model.finalize()
    return args


@pytest.mark.parametrize(
    ("value", "allowed"), [(None, False), ("0", False), ("1", True), ("True", True)]
)
def test_a_version_compatible_plan_may_bring_code_where_that_is_allowed(
    monkeypatch: pytest.MonkeyPatch, value: str | None, allowed: bool
) -> None:
    assert opened(monkeypatch, value) == {"host_code": allowed}
