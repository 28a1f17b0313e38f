"""The stage deploy: a real server, started, tested, measured, detached and stopped."""

import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from recipe.cli import main
from recipe.config import DeployConfig
from recipe.deploy import STAGE, _smoke_test
from recipe.evaluation.results import read_results, write_results
from recipe.launchers import DockerLauncher, ProcessLauncher, detached_endpoint
from recipe.processes import read_started
from rerank_client import RerankClient, RerankResult
from tests.recipe.conftest import write_program
from tests.recipe.killing import killed_after
from tests.recipe.models import docker_stand_in
from tests.waiting import PATIENCE_S, wait_until

pytestmark = pytest.mark.usefixtures("undrawn")

DEPLOY = Path("output/rerank/stage5_deploy")
EVAL = Path("output/rerank/stage3_eval")


@pytest.fixture
def folder(copied: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The copied folder. Servers that still run are stopped after the test."""
    started: list[subprocess.Popen[Any]] = []

    class Known(subprocess.Popen[Any]):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            started.append(self)

    monkeypatch.setattr(subprocess, "Popen", Known)
    yield copied
    for process in started:
        process.kill()
        process.wait()
    left = copied / DEPLOY / "server.pid"  # of a stage that was killed
    if server := read_started(left):
        server.end(0)


@pytest.fixture
def docker_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A program named docker, first on the PATH."""
    command = tmp_path / "bin" / "docker"
    write_program(command, Path(docker_stand_in.__file__).read_text())
    monkeypatch.setenv("PATH", f"{command.parent}:{os.environ['PATH']}")
    yield command
    subprocess.run([str(command), "rm", "--force", "nemotron-rerank-nim"], check=True)


def is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/v1/health/ready", timeout=PATIENCE_S).is_success
    except httpx.TransportError:
        return False


def test_a_deploy_killed_while_it_measures_is_begun_again_and_serves_what_was_measured(
    folder: Path, port: int, docker_command: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # An earlier deployment's column, in whose place the killed one measures.
    results = read_results(folder / EVAL)
    earlier = msgspec.structs.replace(results["onnx"], identity="")
    write_results(folder / EVAL, {**results, "nim": earlier})
    scores = folder / EVAL / "scores"
    shutil.copyfile(scores / "onnx.jsonl", scores / "nim.jsonl")
    arguments = ["deploy", "-c", "c.toml", f"host_port={port}"]
    # With the head of the new scores, and those of two queries.
    killed_after("recipe.durable:JournalWriter.write", 3, *arguments, folder=folder)
    left = json.loads((folder / DEPLOY / "server.pid").read_bytes())["pid"]
    assert "nim" not in read_results(folder / EVAL)
    assert main(["export", "-c", "c.toml"]) == 0  # which writes drift.md of what there is
    assert "onnx → nim" not in (folder / EVAL / "drift.md").read_text("utf-8")
    capsys.readouterr()
    # The killed run's server is this stage's own: it is replaced without asking.
    assert main(arguments) == 0
    assert f"replace the process {left}" in capsys.readouterr().err
    results = read_results(folder / EVAL)
    assert results["nim"].NDCG == results["finetuned"].NDCG
    assert "| onnx → nim | +0.0000 | NDCG@1 +0.0000 | 1.0000 | no |" in (
        folder / EVAL / "drift.md"
    ).read_text("utf-8")
    endpoint = json.loads((folder / DEPLOY / "endpoint.json").read_text())
    assert is_ready(port)
    # It was detached, and is not forgotten.
    assert main([*arguments, "launcher=docker", "nim_image=open-rerank:cpu"]) == 1
    assert endpoint["stop"] in capsys.readouterr().err
    # Otherwise it would take it for the server of a killed run, and replace it.
    assert main(arguments) == 1
    output = capsys.readouterr().err
    assert "replace_existing=true" in output
    assert f"kill {endpoint['handle']}" in output
    assert is_ready(port)
    # info asks it, and does not take a finished stage for a running endpoint.
    assert main(["info", "-c", "c.toml", f"deploy.host_port={port}"]) == 0
    address = f"http://127.0.0.1:{port}"
    assert f"(finished; its endpoint {address} answers)" in capsys.readouterr().out
    os.kill(int(endpoint["handle"]), signal.SIGKILL)
    # Its port is free before the process has gone.
    wait_until(lambda: detached_endpoint(folder / DEPLOY) is None)
    assert main(["info", "-c", "c.toml", f"deploy.host_port={port}"]) == 0
    assert "(finished; its endpoint does not run now)" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("scores", "said"),
    [([2.0, 1.0], "it ranks 'what is AI?' as it should"), ([1.0, 1.0], "does NOT put the answer")],
)
def test_the_smoke_test_looks_at_the_order(
    scores: list[float], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RerankClient, "rerank", lambda *_: RerankResult(scores, [0, 1]))
    endpoint = DockerLauncher(DeployConfig(), None, tmp_path / "log", None, replace=False)
    assert said in _smoke_test(DeployConfig(), endpoint)


def test_without_a_model_dir_the_image_serves_its_own(tmp_path: Path) -> None:
    """As NVIDIA's model_dir=null."""
    settings = DeployConfig(model_dir=None)
    command = DockerLauncher(settings, None, tmp_path / "log", None, replace=False).command_line()
    assert "NIM_CUSTOM_MODEL" not in command
    assert "--volume" not in command
    assert [one.what for one in STAGE.inputs(settings)] == ["evaluation"]
    assert any("docker run" in line for line in STAGE.plan(settings))


def test_a_key_that_no_request_can_carry_is_told_before_anything_runs(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NGC_API_KEY", "clé secrète")
    assert main(["deploy", "-c", "c.toml"]) == 1
    output = capsys.readouterr().err
    assert "cannot be called: api_key holds characters" in output
    assert "secr" not in output
    assert not (folder / DEPLOY / "server.log").exists()


def test_a_server_that_wants_a_key_is_asked_with_it(
    folder: Path,
    port: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("NIM_REQUIRE_AUTH", "true")
    monkeypatch.setenv("NGC_API_KEY", "a-very-secret-key")
    assert main(["deploy", "-c", "c.toml", f"host_port={port}"]) == 0
    output = capsys.readouterr()
    url = f"http://127.0.0.1:{port}/v1/ranking"
    assert httpx.post(url, json={}, timeout=PATIENCE_S).status_code == 401
    assert '-H "Authorization: Bearer $NGC_API_KEY"' in output.err
    assert read_results(folder / EVAL)["nim"].identity == ""
    assert "a-very-secret-key" not in output.err + output.out
    for path in (folder / "output").rglob("*"):
        assert path.is_dir() or b"a-very-secret-key" not in path.read_bytes(), path


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_deployment_in_the_foreground_is_finished_by_a_signal(
    folder: Path,
    port: int,
    number: signal.Signals,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    said_before = []
    wait = ProcessLauncher.wait

    def signalled(endpoint: ProcessLauncher) -> None:
        said_before.append(capsys.readouterr().err)
        assert is_ready(port)
        signal.raise_signal(number)
        wait(endpoint)

    monkeypatch.setattr(ProcessLauncher, "wait", signalled)
    terminated = signal.getsignal(signal.SIGTERM)
    # A shell's background job inherits an ignored SIGINT.
    interrupted = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        arguments = [f"host_port={port}", "detach=false", "eval_dir=null"]
        assert main(["deploy", "-c", "c.toml", *arguments]) == 0
    finally:
        signal.signal(signal.SIGINT, interrupted)
    assert signal.getsignal(signal.SIGTERM) == terminated
    assert "running until you interrupt" in said_before[0]
    assert "is now stopped" in capsys.readouterr().err
    assert (folder / DEPLOY / "done.json").is_file()
    assert not (folder / DEPLOY / "endpoint.json").exists()
    assert not is_ready(port)


def test_a_deployment_in_the_foreground_fails_with_its_server(
    folder: Path, port: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wait = ProcessLauncher.wait

    def killed(endpoint: ProcessLauncher) -> None:
        endpoint.running.kill()
        wait(endpoint)

    monkeypatch.setattr(ProcessLauncher, "wait", killed)
    arguments = [f"host_port={port}", "detach=false", "eval_dir=null"]
    assert main(["deploy", "-c", "c.toml", *arguments]) == 1
    assert "the server ended by itself with code -9; its last lines:" in capsys.readouterr().err


def test_a_taken_port_is_told_at_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        assert main(["deploy", "-c", "c.toml", f"host_port={taken}"]) == 1
    assert "a server already answers on 127.0.0.1" in capsys.readouterr().err


def test_a_server_that_ends_shows_its_last_lines(
    folder: Path, port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "output/rerank/stage4_export/onnx/model.onnx").write_bytes(b"broken")
    assert main(["deploy", "-c", "c.toml", f"host_port={port}"]) == 1
    output = capsys.readouterr().err
    assert "the server ended before it was ready" in output
    assert "its last lines:" in output
    assert "stage4_export/onnx" in output.split("its last lines:")[1]
    assert not (folder / DEPLOY / "endpoint.json").exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("use_onnx=false", "found no model.plan"),
        ("model_dir=./nowhere", "run `rerank export`"),
        ("launcher=docker", "wanted Docker"),
    ],
)
def test_what_cannot_be_deployed_is_refused(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    override: str,
    message: str,
) -> None:
    (folder / "output/rerank/stage4_export/tensorrt").mkdir(exist_ok=True)
    monkeypatch.setenv("PATH", "")
    assert main(["deploy", "-c", "c.toml", override]) == 1
    assert message in capsys.readouterr().err


def test_an_artifact_that_export_did_not_measure_is_refused(
    folder: Path, rank_artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["deploy", "-c", "c.toml", f"model_dir={rank_artifact}"]) == 1
    assert "was measured on" in capsys.readouterr().err


def test_an_artifact_that_was_never_measured_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    results = read_results(folder / EVAL)
    del results["onnx"]
    write_results(folder / EVAL, results)
    assert main(["deploy", "-c", "c.toml"]) == 1
    assert "found no column onnx" in capsys.readouterr().err


def test_a_container_is_started_measured_replaced_and_removed(
    folder: Path, port: int, docker_command: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["deploy", "-c", "c.toml", "launcher=docker", "nim_image=open-rerank:cpu"]
    arguments.append(f"host_port={port}")
    assert main(arguments) == 0
    assert "to stop it: docker rm --force nemotron-rerank-nim" in capsys.readouterr().err
    results = read_results(folder / EVAL)
    assert results["nim"].NDCG == results["finetuned"].NDCG
    assert main(arguments) == 1
    assert "replace_existing=true" in capsys.readouterr().err
    assert main([*arguments, "replace_existing=true", "output_dir=./other"]) == 1
    assert f"belongs to the deployment in {folder / DEPLOY}" in capsys.readouterr().err
    assert is_ready(port)
    assert main([*arguments, "replace_existing=true"]) == 0
    assert "replace the container" in capsys.readouterr().err
    assert is_ready(port)
    subprocess.run([str(docker_command), "rm", "--force", "nemotron-rerank-nim"], check=True)
    assert not is_ready(port)


def test_the_docker_command_names_the_key_and_never_holds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NGC_API_KEY", "nvapi-secret")
    settings = msgspec.structs.replace(DeployConfig(), launcher="docker")
    command_line = DockerLauncher(
        settings, tmp_path, tmp_path / "log", 512, replace=False
    ).command_line()
    words = shlex.split(command_line)
    assert words[:3] == ["docker", "run", "--detach"]
    assert words[-1] == "nvcr.io/nim/nvidia/llama-nemotron-rerank-1b-v2:1.10.0"
    assert f"{tmp_path}:/opt/nim/custom_model:ro" in words
    assert "127.0.0.1:8000:8000" in words
    for given in ("NIM_CUSTOM_MODEL=/opt/nim/custom_model", "NIM_TRITON_MAX_SEQ_LENGTH=512"):
        assert given in words
    assert "NGC_API_KEY" in words
    assert "nvapi-secret" not in command_line
