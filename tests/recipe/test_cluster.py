"""Profiles, the job that -d prints, and submitting it to a command called `sky`."""

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from recipe.cluster import load_profile, task_file
from recipe.config import STAGE_NAMES
from recipe.config_files import load
from recipe.errors import BadConfig
from tests.recipe.conftest import PATIENCE_S, write_program

Rerank = Callable[..., subprocess.CompletedProcess[str]]
PROFILES = """
[base]
infra = "slurm"
remote_dir = "/shared/my rerank"
workdir = "."
setup = "pip install '.[recipe]'"
accelerators = "L40S:1"

[big]
extends = "base"
accelerators = "H100:2"
image = "nvcr.io/nvidia/pytorch:25.12-py3"
secrets = ["NVIDIA_API_KEY"]
envs = { HF_HOME = "/shared/hub" }

[circle]
extends = "circle"

[wrong]
extends = "base"
accelerator = "H100:2"

[wandb]
project = "not a profile"
"""
# Records its arguments and the task file.
SKY = """
import json, os, pathlib, sys
seen = {"arguments": sys.argv[1:-1], "task": pathlib.Path(sys.argv[-1]).read_text()}
pathlib.Path("seen.json").write_text(json.dumps(seen))
sys.exit(int(os.environ.get("SKY_CODE", "0")))
"""


@pytest.fixture
def cluster(tmp_path: Path) -> Path:
    """A folder with an env.toml, and a `sky` in bin/."""
    (tmp_path / "env.toml").write_text(PROFILES)
    write_program(tmp_path / "bin" / "sky", SKY)
    return tmp_path


def test_profiles_extend_and_are_found_from_below(cluster: Path) -> None:
    below = cluster / "deep" / "er"
    below.mkdir(parents=True)
    found = load_profile("big", below)
    assert (found.infra, found.accelerators, found.down) == ("slurm", "H100:2", True)
    (cluster / "deep" / "pyproject.toml").touch()
    with pytest.raises(BadConfig, match=r"found no env\.toml"):
        load_profile("big", below)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("bigg", "no profile 'bigg'; the nearest one is 'big'"),
        ("circle", "in a circle: circle, circle"),
        ("wrong", "no key 'accelerator'; the nearest one is 'accelerators'"),
        ("wandb", "no key 'project'"),
    ],
)
def test_wrong_profiles_are_refused(cluster: Path, name: str, message: str) -> None:
    with pytest.raises(BadConfig, match=message):
        load_profile(name, cluster)


def test_the_job_carries_its_settings(cluster: Path) -> None:
    recipe = load("default", STAGE_NAMES, ["finetune.processes=2"])
    text = task_file(load_profile("big", cluster), ["prep", "finetune"], recipe, force=False)
    task = yaml.safe_load(text)
    assert task["name"] == "rerank-prep-finetune"
    assert task["resources"] == {
        "infra": "slurm",
        "accelerators": "H100:2",
        "image_id": "docker:nvcr.io/nvidia/pytorch:25.12-py3",
    }
    # A name without a value would mean a secret stored on SkyPilot's server: see the command.
    assert "secrets" not in task
    assert task["run"].endswith("\nrerank run -c job.yaml --from prep --to finetune\n")
    carried = task["run"].split("<<'SETTINGS'\n")[1].split("SETTINGS\n")[0]
    (cluster / "job.yaml").write_text(carried)
    assert load(str(cluster / "job.yaml"), ("prep", "finetune")) == recipe


def test_the_script_of_the_job_runs_in_a_shell(cluster: Path) -> None:
    (cluster / "env.toml").write_text(
        f'[here]\ninfra = "k8s"\nremote_dir = "{cluster}/there is a space"\n'
    )
    recipe = load("default", STAGE_NAMES)
    text = task_file(load_profile("here", cluster), ["sdg"], recipe, force=True)
    script = yaml.safe_load(text)["run"].replace("rerank run", "echo rerank run")
    done = subprocess.run(["bash", "-eu"], input=script, capture_output=True, text=True, check=True)
    assert done.stdout == "rerank run -c job.yaml --from sdg --to sdg --force\n"
    assert load(f"{cluster}/there is a space/job.yaml", ("sdg",)) == recipe


# Replaces Ray's command: the first node listens until it is stopped, the others report their start.
RAY = """
import os, pathlib, signal, socket, sys
print("ray", *sys.argv[1:], flush=True)
token = pathlib.Path(os.environ["RAY_AUTH_TOKEN_PATH"])
assert len(token.read_text()) == 64 and token.stat().st_mode & 0o777 == 0o600
if "--head" in sys.argv:
    port = int(sys.argv[sys.argv.index("--port") + 1])
    listener = socket.create_server(("127.0.0.1", port))
    signal.pause()
pathlib.Path(sys.argv[0]).with_name("came").write_text("the others are there")
"""


def test_several_nodes_are_a_ray_cluster_as_long_as_the_job(cluster: Path, port: int) -> None:
    (cluster / "env.toml").write_text(PROFILES + '[many]\nextends = "base"\nnodes = 3\n')
    profile = load_profile("many", cluster)
    write_program(cluster / "bin" / "ray", RAY)
    # The job of the first node runs until the other node has connected.
    os.mkfifo(cluster / "bin" / "came")
    recipe = load("default", STAGE_NAMES, ["prep.workers=8", "prep.ray_address=auto"])
    task = yaml.safe_load(task_file(profile, ["prep"], recipe, force=False))
    assert task["num_nodes"] == 3
    script = (
        task["run"]
        .replace("rerank run", f"cat '{cluster}/bin/came'; echo; echo rerank run")
        .replace("sleep 5", "sleep 0.1")
    )
    script = script.replace("/shared/my rerank", str(cluster / "shared"))
    script = script.replace("6379", str(port))
    nodes = [
        subprocess.Popen(
            ["bash", "-u", "-c", script],
            env={
                "PATH": f"{cluster}/bin:/usr/bin:/bin",
                "SKYPILOT_NODE_RANK": rank,
                "SKYPILOT_TASK_ID": "task-7",
                "SKYPILOT_NODE_IPS": "127.0.0.1\n127.0.0.2\n127.0.0.3",
            },
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in "01"
    ]
    try:
        output = [node.communicate(timeout=PATIENCE_S)[0].splitlines() for node in nodes]
    finally:
        for node in nodes:
            node.kill()
    assert [node.returncode for node in nodes] == [0, 0]
    assert output[0] == [
        f"ray start --head --port {port} --include-dashboard=false --block",
        "the others are there",
        "rerank run -c job.yaml --from prep --to prep",
    ]
    assert [path.name for path in (cluster / "shared").iterdir()] == ["job.yaml"]
    assert output[1] == [f"ray start --address 127.0.0.1:{port} --block"]


def test_nodes_that_would_idle_are_refused(cluster: Path) -> None:
    (cluster / "env.toml").write_text(PROFILES + '[many]\nextends = "base"\nnodes = 3\n')
    profile = load_profile("many", cluster)
    recipe = load("default", STAGE_NAMES)
    with pytest.raises(BadConfig, match="nodes = 3 for finetune, which run on one machine"):
        task_file(profile, ["prep", "finetune"], recipe, force=False)
    with pytest.raises(BadConfig, match=r"set prep\.ray_address=auto"):
        task_file(profile, ["prep"], recipe, force=False)
    (cluster / "env.toml").write_text(PROFILES + '[none]\nextends = "base"\nnodes = 0\n')
    with pytest.raises(BadConfig, match="Expected `int` >= 1"):
        load_profile("none", cluster)


def test_a_dry_run_prints_the_exact_job(rerank: Rerank, cluster: Path) -> None:
    done = rerank("run", "--batch", "big", "-d", "--from", "prep", "--to", "eval")
    assert done.returncode == 0, done.stderr
    first, _, task = done.stdout.partition("\n")
    assert first == (
        "# sky launch --yes --cluster rerank-big --down --detach-run --secret NVIDIA_API_KEY "
        "job.yaml"
    )
    path = f"{cluster}/bin:/usr/bin:/bin"
    assert rerank("run", "-b", "big", "--from", "prep", "--to", "eval", PATH=path).returncode == 0
    seen = json.loads((cluster / "seen.json").read_text())
    assert seen["arguments"] == first.split()[2:-1]
    assert seen["task"] == task


def test_a_launch_that_fails_says_so(rerank: Rerank, cluster: Path) -> None:
    path = f"{cluster}/bin:/usr/bin:/bin"
    failed = rerank("prep", "--run", "base", PATH=path, SKY_CODE="3")
    assert failed.returncode == 1
    assert "sky ended with code 3" in failed.stderr
    seen = json.loads((cluster / "seen.json").read_text())
    assert "--detach-run" not in seen["arguments"]
    missing = rerank("prep", "--run", "base", PATH=str(cluster))  # which holds no programs
    assert missing.returncode == 1
    assert "found no command `sky`" in missing.stderr


def test_deploy_stays_here(rerank: Rerank, cluster: Path) -> None:
    done = rerank("deploy", "--run", "base")
    assert done.returncode == 1
    assert "omit --run and --batch" in done.stderr
