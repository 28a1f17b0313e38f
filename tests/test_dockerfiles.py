"""What a build cannot say: that both files agree with pyproject.toml and with each other.

`make image-test` builds and runs the CPU image; the GPU one has nothing but these tests here.
"""

import json
import re
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest

_ROOT = Path(__file__).resolve().parents[1]
_PROJECT = tomllib.loads((_ROOT / "pyproject.toml").read_text())
_FILES = {"Dockerfile.cpu": "serve-cpu", "Dockerfile.gpu": "serve-gpu"}
_KEYWORDS = {
    *("ARG", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL", "RUN", "USER")
}


class Instruction(NamedTuple):
    keyword: str
    rest: str


def _instructions(name: str) -> list[Instruction]:
    lines = (_ROOT / name).read_text().splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", "", text)
    return [Instruction(*line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def _of(name: str, keyword: str) -> list[str]:
    return [found.rest for found in _instructions(name) if found.keyword == keyword]


@pytest.fixture(params=sorted(_FILES))
def dockerfile(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def test_instructions_are_known_and_stages_start_from_the_base(dockerfile: str) -> None:
    assert {found.keyword for found in _instructions(dockerfile)} == _KEYWORDS
    assert all(stage.split()[0] == "${BASE_IMAGE}" for stage in _of(dockerfile, "FROM"))


def test_installs_every_package_and_only_the_serving_extra(dockerfile: str) -> None:
    copied = {found.split()[0] for found in _of(dockerfile, "COPY")}
    packages = set(_PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    assert packages <= copied
    installed = re.findall(r"/src\[([^]]+)]", " ".join(_of(dockerfile, "RUN")))
    assert installed == [_FILES[dockerfile]]
    assert set(installed) <= set(_PROJECT["project"]["optional-dependencies"])


def test_what_is_copied_is_in_the_build_context(dockerfile: str) -> None:
    ignored = (_ROOT / ".dockerignore").read_text().split()
    sources = [
        source
        for found in _of(dockerfile, "COPY")
        if not found.startswith(("--from", "${"))
        for source in found.split()[:-1]
    ]
    assert [source for source in sources if not (_ROOT / source).exists()] == []
    assert set(sources).isdisjoint(ignored)
    assert "artifacts" not in ignored


def test_labels_carry_the_version(dockerfile: str) -> None:
    labels = dict(re.findall(r'([\w.]+)="([^"]*)"', " ".join(_of(dockerfile, "LABEL"))))
    version = _PROJECT["project"]["version"]
    assert labels["org.opencontainers.image.version"] == version
    assert labels["com.nvidia.nim.version"] == version


def test_starts_the_console_command_as_process_one(dockerfile: str) -> None:
    (entrypoint,) = _of(dockerfile, "ENTRYPOINT")
    (command,) = json.loads(entrypoint)
    assert Path(command).name in _PROJECT["project"]["scripts"]


def test_names_no_registry(dockerfile: str) -> None:
    assert re.findall(r"\w+://(?!127\.0\.0\.1)\S+", (_ROOT / dockerfile).read_text()) == []


@pytest.mark.parametrize("keyword", ["ENV", "EXPOSE", "USER", "HEALTHCHECK", "ENTRYPOINT"])
def test_both_images_run_alike(keyword: str) -> None:
    assert _of("Dockerfile.cpu", keyword) == _of("Dockerfile.gpu", keyword)
