"""Nothing that we start reports to anybody: the switches stand before what they switch is imported.

`make check-network` watches the same processes from outside.
"""

import ast
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import yaml

import exporter.cli
import recipe.cli
import recipe.training.__main__
import server.app
import server.cli
from benchmarks.environments import child_variables
from clients.run import client_variables
from recipe.cluster import Profile, task_file
from recipe.config import STAGE_NAMES, DeployConfig
from recipe.config_files import load
from recipe.launchers import DockerLauncher
from recipe.ray_workers import _Worker
from runtime.telemetry import SWITCHES, disable_telemetry, import_without_telemetry
from tests.small_graphs import write_embedding_directory

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = ("exporter", "profiles", "recipe", "rerank_client", "runtime", "server")
# Packages that report, or settle whether they will, when they are imported.
AT_IMPORT = {"onnxruntime", "openvino", "ray"}
REPORTING = {*AT_IMPORT, "huggingface_hub", "transformers"}
OPEN_BOTH = """
import sys, threading
from pathlib import Path
from runtime.engines import open_engine
for name in ("onnxruntime-cpu", "openvino-fp32"):
    open_engine(name, Path(sys.argv[1])).close()
print(len(threading.enumerate()))
"""


@pytest.fixture
def reporting(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that asks for reports, whatever the suite itself was started with."""
    for name in SWITCHES:
        monkeypatch.setenv(name, "whatever turns it on")
    monkeypatch.delitem(sys.modules, "openvino_telemetry", raising=False)


def clean(**variables: str) -> dict[str, str]:
    """No variable of the suite's own: its CI alone would keep some packages quiet."""
    return {"PATH": os.environ["PATH"], **variables}


@pytest.mark.parametrize("home", ["fresh", "a file", "missing", "unset"])
def test_engines_start_no_reporter_whatever_home_is(tmp_path: Path, home: str) -> None:
    """As for a program that uses the runtime as a library."""
    graph = write_embedding_directory(tmp_path / "graph")
    folder = tmp_path / "home"
    if home == "fresh":
        folder.mkdir()
    elif home == "a file":  # nobody can write below it, root included
        folder.touch()
    done = subprocess.run(
        [sys.executable, "-c", OPEN_BOTH, str(graph)],
        cwd=ROOT,
        env=clean(TMPDIR=str(tmp_path), **({} if home == "unset" else {"HOME": str(folder)})),
        capture_output=True,
        text=True,
        check=True,
    )
    # OpenVINO's reporter would be a second thread; an unwritable HOME would be complained of.
    assert (done.stdout, done.stderr) == ("1\n", "")
    assert sorted(tmp_path.iterdir()) == [graph, *([folder] if folder.exists() else [])]
    assert not folder.is_dir() or not list(folder.iterdir())


def _app() -> None:
    server.app.create_app()


@pytest.mark.parametrize(
    "start",
    [
        lambda: server.cli.main(["--help"]),
        _app,
        lambda: exporter.cli.main(["--help"]),
        lambda: recipe.cli.main(["--help"]),
        recipe.training.__main__.main,
    ],
    ids=["rerank-serve", "uvicorn", "rerank-export", "rerank", "torchrun"],
)
def test_a_process_and_its_children_have_the_switches(
    reporting: None, monkeypatch: pytest.MonkeyPatch, start: Callable[[], Any]
) -> None:
    monkeypatch.setenv("NIM_HTTP_API_PORT", "none that the application could use")
    with pytest.raises(SystemExit):
        start()
    assert SWITCHES.items() <= os.environ.items()
    assert sys.modules["openvino_telemetry"] is None


def test_entry_points_import_nothing_that_reports() -> None:
    """Else it would be imported before the switches stand."""
    code = (
        "import sys\n"
        "import server.app, server.cli, exporter.cli, recipe.cli, recipe.training.__main__\n"
        "import runtime.opening\n"
        "print(' '.join(sys.modules))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert not REPORTING & set(done.stdout.split())


def test_shipped_code_imports_reporting_packages_by_one_function() -> None:
    found = {}
    for path in (file for room in SHIPPED for file in (ROOT / room).rglob("*.py")):
        names: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.Import):
                names |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                names.add(node.module.split(".")[0])
        if wrong := names & AT_IMPORT:
            found[str(path)] = wrong
    assert not found


def test_an_import_finds_the_switches(
    reporting: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "curious_package.py").write_text(
        "import os, sys\n"
        "seen, stub = dict(os.environ), False\n"
        "try:\n"
        "    import openvino_telemetry\n"
        "except ImportError:\n"
        "    stub = True\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    found = import_without_telemetry("curious_package")
    assert SWITCHES.items() <= found.seen.items()
    assert found.stub
    with pytest.raises(ModuleNotFoundError):
        import_without_telemetry("no_package_at_all")


def test_a_reporter_that_is_imported_already_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a program imported by itself is that program's."""
    monkeypatch.setitem(sys.modules, "openvino_telemetry", ast)
    disable_telemetry()
    assert sys.modules["openvino_telemetry"] is ast


def test_a_ray_worker_has_the_switches(reporting: None) -> None:
    """Started by a cluster, it has the environment of that."""
    seen = _Worker(lambda: lambda name: os.environ[name], ())
    assert {name: seen.work(name) for name in SWITCHES} == SWITCHES


def test_a_job_on_a_cluster_has_the_switches() -> None:
    profile = Profile(infra="k8s", remote_dir="/shared", envs={"DO_NOT_TRACK": "0", "MINE": "1"})
    task = yaml.safe_load(task_file(profile, ["prep"], load("default", STAGE_NAMES), force=False))
    assert task["envs"] == {**SWITCHES, "MINE": "1"}


def test_a_container_is_told_by_nvidia_s_name(tmp_path: Path) -> None:
    words = DockerLauncher(
        DeployConfig(), tmp_path, tmp_path / "log", None, replace=False
    ).arguments()
    assert ("--env", "NIM_TELEMETRY_MODE=0") in pairwise(words)


@pytest.mark.parametrize("variables", [client_variables, child_variables])
def test_clients_and_peers_have_the_switches(
    reporting: None, variables: Callable[[], dict[str, str]]
) -> None:
    assert SWITCHES.items() <= variables().items()


def test_triton_s_own_onnx_runtime_has_its_switch(tmp_path: Path) -> None:
    program = tmp_path / "tritonserver"
    program.write_text('#!/bin/sh\necho "$ORT_DISABLE_TELEMETRY"\n')
    program.chmod(0o755)
    done = subprocess.run(
        ["sh", str(ROOT / "exporter" / "triton" / "start.sh")],
        env=clean(TRITONSERVER=str(program)),
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == SWITCHES["ORT_DISABLE_TELEMETRY"]


def test_no_manifest_overrides_a_switch_of_an_image() -> None:
    texts = [path.read_text("utf-8") for path in (ROOT / "deploy").rglob("*") if path.is_file()]
    assert texts
    assert not [name for name in SWITCHES for text in texts if name in text]
