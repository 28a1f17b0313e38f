"""The wheel holds what it needs: profiles and licence are found in a non-editable install."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

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


@pytest.fixture(scope="module")
def reported(installed: Path) -> dict[str, Any]:
    """What the installed packages say of themselves, asked in one process."""
    code = (
        "import json; from recipe import config, config_files; from recipe.table import STAGES;"
        "from runtime import profile; print(json.dumps({"
        "'files': [config.__file__, profile.__file__],"
        "'models': [profile.load_model_profile(n).id for n in profile.model_profile_names()],"
        "'targets': [profile.load_target_profile(n).name for n in profile.target_profile_names()],"
        "'configurations': config_files.config_names(),"
        "'stages': [stage.name for stage in STAGES]}))"
    )
    environment = {**os.environ, "PYTHONPATH": str(installed), "PYTHONSAFEPATH": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=installed.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_data_of_the_packages_is_in_them(installed: Path, reported: dict[str, Any]) -> None:
    files = [installed / "recipe" / "config.py", installed / "runtime" / "profile.py"]
    assert reported["files"] == [str(file) for file in files]
    assert "nvidia/llama-nemotron-rerank-1b-v2" in reported["models"]
    assert "cpu-fp32" in reported["targets"]
    assert reported["configurations"] == ["default", "small"]
    for name in ("tensorrt_operators.toml", "triton/model.py", "triton/start.sh"):
        assert (installed / "exporter" / name).is_file()


def test_the_recipe_knows_its_stages(reported: dict[str, Any]) -> None:
    assert reported["stages"] == ["sdg", "prep", "finetune", "eval", "export", "deploy"]


def test_only_the_rooms_for_users_are_shipped(installed: Path) -> None:
    packages = {p.name for p in installed.iterdir() if not p.name.endswith(".dist-info")}
    rooms = {"exporter", "profiles", "recipe", "runtime", "server"}
    assert packages == rooms
