"""The stage deploy: a real server, started, asked, measured, handed over and stopped."""

import json
import os
import shlex
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import msgspec
import pytest

from recipe.cli import main
from recipe.config import DeployConfig
from recipe.evaluation.results import read_results, write_results
from recipe.launchers import docker
from tests.recipe.models import docker_stand_in
from tests.recipe.models.material import command, environment, kill_when, run

DEPLOY = Path("output/rerank/stage5_deploy")
EVAL = Path("output/rerank/stage3_eval")


@pytest.fixture
def port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


@pytest.fixture
def folder(copied: Path) -> Iterator[Path]:
    yield copied
    file = copied / DEPLOY / "server.pid"
    if file.exists():
        os.kill(int(file.read_text()), signal.SIGKILL)


@pytest.fixture
def docker_command(tmp_path: Path) -> Path:
    """A program named docker, for a PATH that begins with its folder."""
    stand_in = tmp_path / "bin" / "docker"
    stand_in.parent.mkdir()
    script = Path(docker_stand_in.__file__).read_text()
    stand_in.write_text(f"#!{sys.executable}\n{script}")
    stand_in.chmod(0o755)
    return stand_in


def test_a_killed_deploy_is_begun_again_and_serves_what_was_measured(
    folder: Path, port: int
) -> None:
    arguments = ["deploy", "-c", "c.toml", f"host_port={port}"]
    kill_when((folder / DEPLOY / "server.pid").exists, *arguments, folder=folder)
    done = run(*arguments, folder=folder)
    assert done.returncode == 0, done.stderr
    assert "replace the process" in done.stderr
    results = read_results(folder / EVAL)
    assert results["nim"].NDCG == results["finetuned"].NDCG
    assert (
        "| onnx → nim | +0.0000 | NDCG@1 +0.0000 | 1.0000 | no |"
        in (folder / EVAL / "drift.md").read_text()
    )
    endpoint = json.loads((folder / DEPLOY / "endpoint.json").read_text())
    assert httpx.get(endpoint["url"] + "/v1/health/ready").status_code == 200
    again = run(*arguments, folder=folder)
    assert again.returncode == 1
    assert f"kill {endpoint['handle']}" in again.stderr


def test_an_endpoint_that_was_handed_over_is_not_forgotten(
    folder: Path, port: int, docker_command: Path
) -> None:
    arguments = ["deploy", "-c", "c.toml", f"host_port={port}"]
    done = run(*arguments, folder=folder)
    assert done.returncode == 0, done.stderr
    endpoint = json.loads((folder / DEPLOY / "endpoint.json").read_text())
    path = {"PATH": f"{docker_command.parent}:{os.environ['PATH']}"}
    other = run(*arguments, "launcher=docker", "nim_image=open-rerank:cpu", folder=folder, **path)
    assert other.returncode == 1
    assert endpoint["stop"] in other.stderr
    # Which would otherwise take it for something that a killed run left, and replace it.
    again = run(*arguments, folder=folder)
    assert again.returncode == 1
    assert "replace_existing=true" in again.stderr
    assert httpx.get(endpoint["url"] + "/v1/health/ready").status_code == 200


def test_a_key_that_no_request_can_carry_is_told_before_anything_runs(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NGC_API_KEY", "clé secrète")
    assert main(["deploy", "-c", "c.toml"]) == 1
    said = capsys.readouterr().err
    assert "cannot be asked: api_key holds characters" in said
    assert "secr" not in said
    assert not (folder / DEPLOY / "server.log").exists()


def test_a_server_that_wants_a_key_is_asked_with_it(
    folder: Path, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NIM_REQUIRE_AUTH", "true")
    monkeypatch.setenv("NGC_API_KEY", "a-very-secret-key")
    done = run("deploy", "-c", "c.toml", f"host_port={port}", folder=folder)
    assert done.returncode == 0, done.stderr
    assert httpx.post(f"http://127.0.0.1:{port}/v1/ranking", json={}).status_code == 401
    assert '-H "Authorization: Bearer $NGC_API_KEY"' in done.stderr
    assert read_results(folder / EVAL)["nim"].identity == ""
    assert "a-very-secret-key" not in done.stderr + done.stdout
    for path in (folder / "output").rglob("*"):
        assert path.is_dir() or b"a-very-secret-key" not in path.read_bytes(), path


def test_a_deploy_killed_while_it_measures_leaves_results_that_others_can_use(
    folder: Path, port: int
) -> None:
    arguments = ["deploy", "-c", "c.toml", f"host_port={port}"]
    scores = folder / EVAL / "scores" / "nim.jsonl"
    first = run(*arguments, folder=folder)
    assert first.returncode == 0, first.stderr
    wanted, before = read_results(folder / EVAL)["nim"], scores.stat().st_mtime_ns

    def is_measuring() -> bool:
        try:
            return scores.stat().st_mtime_ns != before
        except FileNotFoundError:  # the old ones are gone, the new ones not begun
            return False

    kill_when(is_measuring, *arguments, "replace_existing=true", folder=folder)
    assert "nim" not in read_results(folder / EVAL)
    assert main(["export", "-c", "c.toml"]) == 0  # which writes drift.md of what there is
    assert "onnx → nim" not in (folder / EVAL / "drift.md").read_text()
    # What the killed run left is its own: no need to ask for its replacement.
    done = run(*arguments, folder=folder)
    assert done.returncode == 0, done.stderr
    assert read_results(folder / EVAL)["nim"] == wanted


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_deployment_in_the_foreground_is_finished_by_a_signal(
    folder: Path, port: int, number: signal.Signals
) -> None:
    running = subprocess.Popen(
        command("deploy", "-c", "c.toml", f"host_port={port}", "detach=false"),
        cwd=folder,
        env=environment(),
        stderr=subprocess.PIPE,
        text=True,
        # A shell's background job hands an ignored SIGINT down.
        preexec_fn=partial(signal.signal, signal.SIGINT, signal.SIG_DFL),
    )
    assert running.stderr is not None
    with running.stderr as said:
        assert any("it runs until you interrupt" in line for line in said)
        assert httpx.get(f"http://127.0.0.1:{port}/v1/health/ready").status_code == 200
        running.send_signal(number)
        assert any("is now stopped" in line for line in said)
        said.read()
    assert running.wait() == 0
    assert (folder / DEPLOY / "done.json").is_file()
    assert not (folder / DEPLOY / "endpoint.json").exists()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/v1/health/ready")


def test_a_taken_port_is_told_at_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        assert main(["deploy", "-c", "c.toml", f"host_port={taken}"]) == 1
    assert "something answers on 127.0.0.1" in capsys.readouterr().err


def test_a_server_that_ends_shows_its_last_lines(
    folder: Path, port: int, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "output/rerank/stage4_export/onnx/model.onnx").write_bytes(b"broken")
    assert main(["deploy", "-c", "c.toml", f"host_port={port}"]) == 1
    said = capsys.readouterr().err
    assert "the server ended before it was ready" in said
    assert "its last lines:" in said
    assert "stage4_export/onnx" in said.split("its last lines:")[1]
    assert not (folder / DEPLOY / "endpoint.json").exists()


@pytest.mark.parametrize(
    ("override", "said"),
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
    said: str,
) -> None:
    (folder / "output/rerank/stage4_export/tensorrt").mkdir(exist_ok=True)
    monkeypatch.setenv("PATH", "")
    assert main(["deploy", "-c", "c.toml", override]) == 1
    assert said in capsys.readouterr().err


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
    folder: Path, port: int, docker_command: Path
) -> None:
    arguments = ["deploy", "-c", "c.toml", "launcher=docker", "nim_image=open-rerank:cpu"]
    arguments.append(f"host_port={port}")
    path = {"PATH": f"{docker_command.parent}:{os.environ['PATH']}"}
    done = run(*arguments, folder=folder, **path)
    assert done.returncode == 0, done.stderr
    assert "to stop it: docker rm --force nemotron-rerank-nim" in done.stderr
    results = read_results(folder / EVAL)
    assert results["nim"].NDCG == results["finetuned"].NDCG
    again = run(*arguments, folder=folder, **path)
    assert again.returncode == 1
    assert "replace_existing=true" in again.stderr
    foreign = run(*arguments, "replace_existing=true", "output_dir=./other", folder=folder, **path)
    assert foreign.returncode == 1
    assert f"belongs to the deployment in {folder / DEPLOY}" in foreign.stderr
    assert httpx.get(f"http://127.0.0.1:{port}/v1/health/ready").status_code == 200
    replaced = run(*arguments, "replace_existing=true", folder=folder, **path)
    assert replaced.returncode == 0, replaced.stderr
    assert "replace the container" in replaced.stderr
    subprocess.run([str(docker_command), "rm", "--force", "nemotron-rerank-nim"], check=True)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/v1/health/ready")


def test_the_docker_command_names_the_key_and_never_holds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NGC_API_KEY", "nvapi-secret")
    settings = msgspec.structs.replace(DeployConfig(), launcher="docker")
    shown = docker(settings, tmp_path, tmp_path / "log", 512, replace=False).shown()
    words = shlex.split(shown)
    assert words[:3] == ["docker", "run", "--detach"]
    assert words[-1] == "nvcr.io/nim/nvidia/llama-nemotron-rerank-1b-v2:1.10.0"
    assert f"{tmp_path}:/opt/nim/custom_model:ro" in words
    assert "127.0.0.1:8000:8000" in words
    for given in ("NIM_CUSTOM_MODEL=/opt/nim/custom_model", "NIM_TRITON_MAX_SEQ_LENGTH=512"):
        assert given in words
    assert "NGC_API_KEY" in words
    assert "nvapi-secret" not in shown
