"""The two distributions require ranges; constraints.txt has the exact versions."""

import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parent.parent
OURS = {"rerank-client"}


def project(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]


def pins(file: Path) -> dict[str, str]:
    lines = [line for line in file.read_text("utf-8").splitlines() if "==" in line]
    found = dict(line.split("==") for line in lines if not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in found.items()}


def requirements(found: dict[str, Any], *, but: str = "") -> Iterator[Requirement]:
    yield from map(Requirement, found["dependencies"])
    for extra, some in found.get("optional-dependencies", {}).items():
        if extra != but:
            yield from map(Requirement, some)


@pytest.mark.parametrize("folder", [ROOT, ROOT / "rerank_client"], ids=["open-rerank", "client"])
def test_every_range_holds_the_version_that_is_tested(folder: Path) -> None:
    exact = pins(ROOT / "constraints.txt")
    exact["onnxruntime-gpu"] = exact["onnxruntime"]  # which excludes the other
    for one in requirements(project(folder), but="optimum"):
        if one.name not in OURS:
            assert one.specifier.contains(exact[canonicalize_name(one.name)]), one
        assert {part.operator for part in one.specifier} == {">=", "<"}, one


def test_optimum_has_versions_of_its_own() -> None:
    exact = pins(ROOT / "checks" / "requirements" / "optimum.txt")
    wanted = project(ROOT)["optional-dependencies"]["optimum"]
    assert all(
        r.specifier.contains(exact[canonicalize_name(r.name)]) for r in map(Requirement, wanted)
    )


def test_the_recipe_depends_on_the_client_s_own_distribution() -> None:
    (needed,) = (r for r in requirements(project(ROOT)) if r.name in OURS)
    client = project(ROOT / "rerank_client")
    assert client["name"] == needed.name
    assert needed.specifier.contains(client["version"])


@pytest.mark.parametrize("module", ["recipe.cli", "exporter.cli", "server.command"])
def test_commands_say_their_version(module: str) -> None:
    call = "main" if module != "server.command" else "serve"
    arguments = "['--version']" if call == "main" else "['--version'], as_json=False"
    code = f"from {module} import {call}; {call}({arguments})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.split()[1:] == [project(ROOT)["version"]]
