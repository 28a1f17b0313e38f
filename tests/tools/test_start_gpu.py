"""The GPU image's entrypoint, with stand-ins for the commands that it calls."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.waiting import PATIENCE_S

_SCRIPT = Path(__file__).resolve().parents[2] / "tools" / "start_gpu.sh"
_MACHINE = "sm9.0-tensorrt10.16.1.11"
# Builds as rerank-export does: the artifact is complete or absent.
_EXPORT_CALL = 'echo "export $*" >> "$CALLS"'
_EXPORT = f"""#!/bin/sh
{_EXPORT_CALL}
[ -z "${{BUILD_FAILS:-}}" ] || exit 1
mkdir -p "$6"
echo plan > "$6/manifest.json"
"""
# Prints the model that it was given by the image's variables.
_SERVE = """#!/bin/sh
echo "serve $NIM_CUSTOM_MODEL $*" >> "$CALLS"
echo "rank=${RERANK_MODEL_DIR:-} embed=${EMBED_MODEL_DIR:-}" > "$CALLS.beside"
"""


class Container:
    """A folder with the commands, a model and a cache."""

    def __init__(self, folder: Path) -> None:
        self.bin, self.model, self.cache = folder / "bin", folder / "model", folder / "cache"
        self.calls = folder / "calls"
        for directory in (self.bin, self.model, self.cache):
            directory.mkdir()
        (self.model / "manifest.json").write_text("{}")
        self.command("rerank-export", _EXPORT)
        self.command("rerank-serve", _SERVE)
        self.command("python3", f"#!/bin/sh\necho {_MACHINE}\n")

    def command(self, name: str, text: str) -> None:
        (self.bin / name).write_text(text)
        (self.bin / name).chmod(0o755)

    def start(
        self, *arguments: str, script: Path = _SCRIPT, **more: str
    ) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": f"{self.bin}:{os.environ['PATH']}",
            "CALLS": str(self.calls),
            "NIM_CUSTOM_MODEL": str(self.model),
            "NIM_CACHE_PATH": str(self.cache),
            "RERANK_BUILD_TARGET": "tensorrt-fp16",
            **more,
        }
        return subprocess.run(
            [str(script), *arguments], env=environment, capture_output=True, text=True, check=False
        )

    def called(self) -> list[str]:
        return self.calls.read_text().splitlines() if self.calls.exists() else []


@pytest.fixture
def container(tmp_path: Path) -> Container:
    return Container(tmp_path)


def test_without_the_wish_the_server_starts_at_once(container: Container) -> None:
    assert container.start("--port", "1", RERANK_BUILD_TARGET="").returncode == 0
    assert container.called() == [f"serve {container.model} --port 1"]


def test_the_first_start_builds_and_later_ones_serve_what_is_there(container: Container) -> None:
    for _ in range(2):
        assert container.start().returncode == 0
    build, *served = container.called()
    (plan,) = container.cache.glob(f"plans/*-tensorrt-fp16-{_MACHINE}")
    assert build == (
        f"export build {container.model} --target tensorrt-fp16 --out {plan} "
        f"--timing-cache {container.cache}/plans/{_MACHINE}.timing"
    )
    assert served == [f"serve {plan} "] * 2


# Waits for another container, which leaves its plan; then continues as flock does.
_FLOCK = """#!/bin/sh
mkdir -p "$6"
echo plan > "$6/manifest.json"
shift 2
exec "$@"
"""


def test_what_another_container_built_meanwhile_is_served(container: Container) -> None:
    container.command("flock", _FLOCK)
    assert container.start().returncode == 0
    (plan,) = container.cache.glob(f"plans/*-tensorrt-fp16-{_MACHINE}")
    assert container.called() == [f"serve {plan} "]


def test_an_embedder_stays_beside_the_plan(container: Container) -> None:
    """The image itself names the reranker, in RERANK_MODEL_DIR; NIM_CUSTOM_MODEL would replace both
    models."""
    beside = {"RERANK_MODEL_DIR": str(container.model), "EMBED_MODEL_DIR": "/emb"}
    assert container.start(NIM_CUSTOM_MODEL="", **beside).returncode == 0
    (plan,) = container.cache.glob("plans/*-tensorrt-fp16-*")
    assert container.called()[-1] == "serve  "
    assert container.calls.with_suffix(".beside").read_text() == f"rank={plan} embed=/emb\n"


@pytest.mark.parametrize("option", ["--rank", "--embed=/emb", "--emb"])
def test_a_model_of_the_command_line_is_not_what_is_built(
    container: Container, option: str
) -> None:
    done = container.start("--port", "1", option, "/other")
    assert done.returncode == 2
    assert f"found the option {option} as well" in done.stderr
    assert container.called() == []


def test_another_model_target_or_machine_gets_a_plan_of_its_own(container: Container) -> None:
    container.start()
    container.start(RERANK_BUILD_TARGET="tensorrt-bf16")
    (container.model / "manifest.json").write_text('{"version": 2}')
    container.start()
    container.command("python3", "#!/bin/sh\necho sm8.9-tensorrt10.16.1.11\n")
    container.start()
    assert len([call for call in container.called() if call.startswith("export")]) == 4


def test_a_build_that_fails_is_not_served(container: Container) -> None:
    assert container.start(BUILD_FAILS="1").returncode == 1
    assert [call.split()[0] for call in container.called()] == ["export"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"NIM_CACHE_PATH": ""}, "found no NIM_CACHE_PATH"),
        ({"NIM_CUSTOM_MODEL": "/nothing"}, "found no manifest.json in '/nothing'"),
        ({"NIM_CACHE_PATH": "/proc"}, "cannot write to"),
    ],
)
def test_what_is_missing_is_said(container: Container, more: dict[str, str], message: str) -> None:
    done = container.start(**more)
    assert done.returncode == 2
    assert message in done.stderr
    assert container.called() == []


def test_a_machine_without_a_gpu_or_tensorrt_is_refused(container: Container) -> None:
    container.command("python3", "#!/bin/sh\necho\n")
    assert "wanted docker run --gpus all" in container.start().stderr
    container.command("python3", "#!/bin/sh\nexit 1\n")
    assert "found no TensorRT" in container.start().stderr
    assert container.called() == []


@pytest.mark.parametrize(
    ("cards", "builds"), [("all", True), ("80 90", True), ("89", False), ("none", False)]
)
def test_an_image_without_the_libraries_for_this_card_builds_no_plan(
    container: Container, cards: str, builds: bool
) -> None:
    share = container.bin.parent / "share"
    share.mkdir()
    (share / "plan-cards").write_text(f"{cards}\n")
    copy = shutil.copy(_SCRIPT, container.bin / "start-gpu")
    done = container.start(script=Path(copy))
    assert done.returncode == (0 if builds else 2)
    assert bool(container.called()) == builds
    wanted = f"builds plans for the cards '{cards}', wanted 90: build the image with --build-arg"
    assert (wanted in done.stderr) != builds
    # A plan that is there needs no builder.
    container.start()
    assert container.start(script=Path(copy)).returncode == 0


def test_a_signal_ends_the_build_and_nothing_is_served(container: Container) -> None:
    container.command(
        "rerank-export", f"#!/bin/sh\n{_EXPORT_CALL}\nkill -TERM $PPID\nexec sleep {PATIENCE_S}\n"
    )
    assert container.start().returncode == 0
    (call,) = container.called()
    assert call.startswith("export build ")
