"""The wheel holds what it needs: profiles and licence are found in a non-editable install."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel's contents, unpacked where nothing of the checkout can be seen."""
    build = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(build)],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    (wheel,) = build.glob("*.whl")
    target = build / "site"
    zipfile.ZipFile(wheel).extractall(target)
    return target


def run(installed: Path, code: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=installed.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout.strip()


def test_profiles_are_package_data(installed: Path) -> None:
    code = (
        "from runtime import profile; print(profile.__file__);"
        "print([profile.load_model_profile(n).id for n in profile.model_profile_names()]);"
        "print([profile.load_target_profile(n).name for n in profile.target_profile_names()])"
    )
    lines = run(installed, code).splitlines()
    assert lines[0].startswith(str(installed))
    assert "nvidia/llama-nemotron-rerank-1b-v2" in lines[1]
    assert "cpu-fp32" in lines[2]


def test_configurations_are_package_data(installed: Path) -> None:
    code = "from recipe import config; print(config.__file__, config.config_names())"
    assert run(installed, code) == f"{installed}/recipe/config.py ['default', 'small']"


def test_only_the_rooms_for_users_are_shipped(installed: Path) -> None:
    packages = {p.name for p in installed.iterdir() if not p.name.endswith(".dist-info")}
    rooms = {"exporter", "profiles", "recipe", "rerank_client", "runtime", "server"}
    assert packages == rooms


def test_the_recipe_knows_its_stages(installed: Path) -> None:
    code = "from recipe.table import STAGES; print([stage.name for stage in STAGES])"
    wanted = ["sdg", "prep", "finetune", "eval", "export", "deploy"]
    assert run(installed, code) == str(wanted)


def test_what_a_triton_repository_is_made_of_is_package_data(installed: Path) -> None:
    for name in ("model.py", "start.sh"):
        assert (installed / "exporter" / "triton" / name).is_file()
