"""What a build cannot say: that both files agree with pyproject.toml and with each other.

`make image-test` builds and runs the CPU image; the GPU one has nothing but these tests here.
"""

import json
import re
import subprocess
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest

from runtime.telemetry import SWITCHES
from server.settings import NO_MODEL

_ROOT = Path(__file__).resolve().parents[1]
_PROJECT = tomllib.loads((_ROOT / "pyproject.toml").read_text("utf-8"))
# Extras of what is served, and of the stages beside it.
_FILES = {
    "Dockerfile.cpu": ["serve-cpu,openvino,triton,vision"],
    "Dockerfile.gpu": ["serve-gpu,triton,vision", "tensorrt", "export"],
}


class Instruction(NamedTuple):
    keyword: str
    rest: str


def _instructions(name: str) -> list[Instruction]:
    lines = (_ROOT / name).read_text("utf-8").splitlines()
    text = "\n".join(line for line in lines if not line.lstrip().startswith("#"))
    joined = re.sub(r"\\\n\s*", "", text)
    return [Instruction(*line.split(maxsplit=1)) for line in joined.splitlines() if line.strip()]


def _of(name: str, keyword: str) -> list[str]:
    return [found.rest for found in _instructions(name) if found.keyword == keyword]


@pytest.fixture(params=sorted(_FILES))
def dockerfile(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def _served(name: str) -> list[Instruction]:
    """The last stage: the image that is served."""
    found = _instructions(name)
    last = max(place for place, one in enumerate(found) if one.keyword == "FROM")
    return found[last:]


def test_installs_every_package_and_only_the_wanted_extras(dockerfile: str) -> None:
    copied = {found.split()[0] for found in _of(dockerfile, "COPY")}
    packages = set(_PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"])
    assert packages <= copied
    installed = re.findall(r"/src\[([^]]+)]", " ".join(_of(dockerfile, "RUN")))
    assert installed == _FILES[dockerfile]
    extras = {extra for found in installed for extra in found.split(",")}
    assert extras <= set(_PROJECT["project"]["optional-dependencies"])


def test_what_is_served_comes_without_the_exporter_s_libraries(dockerfile: str) -> None:
    sources = [one.rest.split()[0] for one in _served(dockerfile) if one.keyword == "COPY"]
    assert "--from=export" not in sources
    assert not [one for one in _served(dockerfile) if "pip install" in one.rest]


def test_what_is_copied_is_in_the_build_context(dockerfile: str) -> None:
    ignored = (_ROOT / ".dockerignore").read_text("utf-8").split()
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
    (entrypoint,) = [one.rest for one in _served(dockerfile) if one.keyword == "ENTRYPOINT"]
    (command,) = json.loads(entrypoint)
    if dockerfile == "Dockerfile.gpu":
        copied = [one.rest.split() for one in _served(dockerfile) if one.keyword == "COPY"]
        assert ["tools/start_gpu.sh", command] in copied
        assert (
            (_ROOT / "tools" / "start_gpu.sh")
            .read_text("utf-8")
            .endswith('exec rerank-serve "$@"\n')
        )
    else:
        assert Path(command).name in _PROJECT["project"]["scripts"]


def test_names_no_registry(dockerfile: str) -> None:
    stages = [stage.split() for stage in _of(dockerfile, "FROM")]
    names = {stage[-1] for stage in stages if "AS" in stage}
    assert {stage[0] for stage in stages} <= {"${BASE_IMAGE}", *names}
    assert re.findall(r"\w+://(?!127\.0\.0\.1)\S+", (_ROOT / dockerfile).read_text("utf-8")) == []


def test_nothing_in_an_image_reports(dockerfile: str) -> None:
    """What is run there beside our own commands, which say so for themselves."""
    set_there = [dict(re.findall(r"(\w+)=(\S+)", found)) for found in _of(dockerfile, "ENV")]
    for variables in set_there:
        found = {name: value for name, value in variables.items() if name in SWITCHES}
        assert found.items() <= SWITCHES.items()
        assert {"ORT_DISABLE_TELEMETRY", "HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK"} <= found.keys()
    # Every image: each ends in a command.
    assert len(set_there) == len(_of(dockerfile, "ENTRYPOINT"))
    uninstalled = " ".join(run for run in _of(dockerfile, "RUN") if "pip uninstall" in run)
    assert ("openvino-telemetry" in uninstalled) == ("openvino" in _FILES[dockerfile][0])


@pytest.mark.parametrize("keyword", ["ENV", "EXPOSE", "HEALTHCHECK", "USER"])
def test_both_images_run_alike(keyword: str) -> None:
    """But for how long a plan may be built before health is asked."""
    cpu, gpu = (
        [
            re.sub(r"--start-period=\d+s", "", one.rest)
            for one in _served(name)
            if one.keyword == keyword
        ]
        for name in sorted(_FILES)
    )
    assert cpu == gpu != []


@pytest.mark.parametrize(
    ("given", "asked"),
    [
        ({}, "http://127.0.0.1:8000"),
        ({"NIM_TLS_CERT_PATH": "/tls/chain.pem"}, "https://127.0.0.1:8000"),
        ({"NIM_SERVER_PORT": "81"}, "http://127.0.0.1:81"),
        ({"NIM_SERVER_PORT": "81", "NIM_HTTP_API_PORT": "82"}, "http://127.0.0.1:82"),
    ],
)
def test_health_is_asked_where_and_how_the_server_listens(
    dockerfile: str, tmp_path: Path, given: dict[str, str], asked: str
) -> None:
    """Over TLS nobody asks whose certificate it is: it need not name 127.0.0.1."""
    curl = tmp_path / "curl"
    curl.write_text('#!/bin/sh\necho "$@"\n')
    curl.chmod(0o755)
    (check,) = _of(dockerfile, "HEALTHCHECK")
    command = check.split(" CMD ")[1]
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", **given}
    done = subprocess.run(
        ["sh", "-c", command], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout == f"-fsSk {asked}/v1/health/ready\n"


def test_a_place_without_a_model_has_the_server_s_mark(dockerfile: str) -> None:
    marks = [run for run in _of(dockerfile, "RUN") if f"/opt/model/{NO_MODEL}; fi" in run]
    assert len(marks) == 1
    (environment,) = [one.rest for one in _served(dockerfile) if one.keyword == "ENV"]
    assert "RERANK_MODEL_DIR=/opt/model" in environment.split()


def test_tensorrt_is_the_version_that_onnx_runtime_was_built_for() -> None:
    pins = (_ROOT / "constraints.txt").read_text("utf-8").split()
    assert [pin.split("==")[1].split(".")[0] for pin in pins if "tensorrt-cu13==" in pin] == ["10"]
    assert _PROJECT["project"]["optional-dependencies"]["tensorrt"][0].endswith("<11")


def test_the_gpu_image_has_no_cudnn_unless_it_is_asked_for() -> None:
    (base,) = (one for one in _of("Dockerfile.gpu", "ARG") if one.startswith("BASE_IMAGE="))
    assert base == "BASE_IMAGE=nvidia/cuda:13.0.1-runtime-ubuntu24.04"
    assert "13.0.1-cudnn-runtime" in (_ROOT / "Dockerfile.gpu").read_text("utf-8")


_CARDS = ("sm75", "sm80", "sm90", "sm120", "ptx")


@pytest.fixture
def venv(tmp_path: Path) -> Path:
    """An environment with TensorRT's libraries by name, for cards and for every machine."""
    libraries = tmp_path / "venv" / "lib" / "python3.12" / "site-packages" / "tensorrt_libs"
    libraries.mkdir(parents=True)
    for name in ("", *(f"_builder_resource_{card}" for card in _CARDS)):
        (libraries / f"libnvinfer{name}.so.10.16.1").touch()
    pip = tmp_path / "venv" / "bin" / "pip"
    pip.parent.mkdir()
    pip.write_text('#!/bin/sh\nexit "${PIP_FAILS:-0}"\n')
    pip.chmod(0o755)
    return tmp_path / "venv"


def _run(part: str, venv: Path, **variables: str) -> subprocess.CompletedProcess[str]:
    """The instruction RUN of Dockerfile.gpu with this `part`, in `venv`."""
    (command,) = (run for run in _of("Dockerfile.gpu", "RUN") if part in run)
    command = re.sub(r"^--mount=\S+\s+", "", command).replace("/opt/venv", str(venv))
    environment = {"PATH": "/usr/bin:/bin", **variables}
    return subprocess.run(
        ["sh", "-c", command], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    ("wanted", "kept"),
    [
        ("all", _CARDS),
        ("90", ("sm90",)),
        ("80 120", ("sm80", "sm120")),
        ("90 ptx", ("sm90", "ptx")),
        ("none", ()),
    ],
)
def test_libraries_for_other_cards_are_left_out(
    venv: Path, wanted: str, kept: tuple[str, ...]
) -> None:
    assert _run("builder_resource", venv, PLAN_CARDS=wanted).returncode == 0
    found = {path.name for path in venv.rglob("libnvinfer*")}
    cards = {f"libnvinfer_builder_resource_{card}.so.10.16.1" for card in kept}
    assert found == {"libnvinfer.so.10.16.1", *cards}
    assert (venv / "share" / "plan-cards").read_text() == f"{wanted}\n"


@pytest.mark.parametrize("wanted", ["8.9", "80,90", "121", "90 12"])
def test_a_card_without_a_library_ends_the_build(venv: Path, wanted: str) -> None:
    before = sorted(venv.rglob("*"))
    done = _run("builder_resource", venv, PLAN_CARDS=wanted)
    assert done.returncode == 1
    assert f"found '{wanted.split()[-1]}' in PLAN_CARDS" in done.stderr
    assert sorted(venv.rglob("*")) == before


def test_libraries_for_all_cards_are_the_default_of_the_stage_that_removes_them() -> None:
    text = (_ROOT / "Dockerfile.gpu").read_text("utf-8")
    (stage,) = (part for part in text.split("\nFROM ") if "builder_resource" in part)
    assert "\nARG PLAN_CARDS=all\n" in stage[: stage.index("RUN")]


def test_libraries_that_were_not_fetched_are_told(venv: Path) -> None:
    assert _run("[tensorrt]", venv).returncode == 0
    told = "found no TensorRT libraries, wanted those that tensorrt-cu13-libs fetches from NVIDIA"
    assert told in _run("[tensorrt]", venv, PIP_FAILS="1").stderr
    for library in venv.rglob("libnvinfer*"):
        library.unlink()
    done = _run("[tensorrt]", venv)
    assert done.returncode == 1
    assert told in done.stderr
