"""`make check-sky`: SkyPilot itself reads the job that `rerank --run PROFILE` would submit.

No cluster is contacted. The check shows that every key of the task file is SkyPilot's own, and that
it understands the script, the accelerators and the names of secrets.
"""

import subprocess
import sys
import tempfile
from pathlib import Path

from recipe.cluster import load_profile, task_file
from recipe.config import STAGE_NAMES
from recipe.config_files import load
from runtime.telemetry import disable_telemetry

SKY_PYTHON = Path(".venvs/skypilot/bin/python")
PROFILE = """
[everything]
infra = "{infra}"
remote_dir = "/shared/rerank"
workdir = "."
setup = "pip install '.[recipe]'"
accelerators = "H100:2"
cpus = "8+"
memory = "64+"
image = "nvcr.io/nvidia/pytorch:25.12-py3"
envs = {{ HF_HOME = "/shared/hub" }}
secrets = ["NVIDIA_API_KEY"]

[many]
extends = "everything"
nodes = 2
"""
READ = """
import sys, sky
import yaml
given = yaml.safe_load(open(sys.argv[1]))
# As the command line does for `--secret NVIDIA_API_KEY`.
task = sky.Task.from_yaml_config(given, secrets_overrides=[("NVIDIA_API_KEY", "x")])
"""
ONE = """
task.validate_name()
(resources,) = task.resources
assert "rerank run -c job.yaml --from prep --to eval" in task.run, task.run
assert resources.accelerators == {"H100": 2}, resources.accelerators
assert list(task.secrets) == ["NVIDIA_API_KEY"], task.secrets
print(resources.infra.to_str(), resources.accelerators, resources.image_id)
"""
MANY = """
assert task.num_nodes == 2, task.num_nodes
assert "ray start --head" in task.run, task.run
print(task.num_nodes, "nodes")
"""


def main() -> None:
    """Raise when SkyPilot refuses a task file."""
    disable_telemetry()
    for infra in ("slurm", "k8s", "aws"):
        _read(infra, "everything", ["prep", "finetune", "eval"], ONE)
        _read(infra, "many", ["prep"], MANY)


def _read(infra: str, name: str, stages: list[str], program: str) -> None:
    recipe = load("default", STAGE_NAMES, ["prep.workers=8", "prep.ray_address=auto"])
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "env.toml").write_text(PROFILE.format(infra=infra))
        profile = load_profile(name, Path(folder))
        file = Path(folder) / "job.yaml"
        file.write_text(task_file(profile, stages, recipe, force=False))
        done = subprocess.run(
            [SKY_PYTHON, "-c", READ + program, file], capture_output=True, text=True, check=False
        )
    if done.returncode:
        sys.exit(f"SkyPilot refuses the job for {infra}:\n{done.stderr[-2000:]}")
    print(f"{infra}: {done.stdout.strip()}")


if __name__ == "__main__":
    main()
