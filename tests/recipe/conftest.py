"""A command line in a temporary folder, a small corpus, and an endpoint that fails."""

import shlex
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from huggingface_hub import constants

from recipe.cli import main
from tests.recipe.openai_stand_in import StandIn

KEY = "nvapi-very-secret"
# Reached only by a hang.
PATIENCE_S = 300


@pytest.fixture
def rerank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`rerank ARGUMENTS` in this process, in an empty folder; its exit code is not checked.

    The output of processes that it starts is part of its output.
    """

    def call(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        capfd.readouterr()
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(tmp_path)
            for name, value in environment.items():
                patch.setenv(name, value)
            try:
                code = main(arguments)
            except SystemExit as ended:  # argparse's way
                code = int(ended.code or 0)
        output = capfd.readouterr()
        return subprocess.CompletedProcess(arguments, code, output.out, output.err)

    return call


def write_corpus(folder: Path, files: int = 12) -> Path:
    """Texts of a few chunks, each with words of its own."""
    folder.mkdir(parents=True)
    animals = ["heron", "otter", "lynx", "marten", "viper", "beaver", "osprey", "badger"]
    places = ["marsh", "river", "ridge", "orchard", "quarry", "delta", "meadow", "cellar"]
    for number in range(files):
        animal, place = animals[number % 8], places[(number * 3) % 8]
        sentences = [
            f"The {animal} of number {number} lives at the {place} and is seen at dawn {part}."
            f" Every {place} has its {animal}, and report {part} of {number} counts them well."
            for part in ("one", "two", "three", "four", "five", "six")
        ]
        text = f"# About the {animal} number {number}\n\n" + "\n".join(sentences)
        (folder / f"{animal}-{number}.md").write_text(text)
    return folder


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    """A folder of twelve texts."""
    return write_corpus(tmp_path / "corpus")


@pytest.fixture
def stand_in() -> Iterator[Callable[..., StandIn]]:
    """Starts an endpoint that takes KEY; its arguments are those of StandIn."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(StandIn(KEY, **options))


@pytest.fixture
def port() -> Iterator[int]:
    """A port of 127.0.0.1 without a listener, reserved for this test.

    It stays bound, so that the kernel gives it to no other process; a server that sets
    SO_REUSEADDR, as ours does, can still listen on it.
    """
    with socket.socket() as held:
        held.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        held.bind(("127.0.0.1", 0))
        yield int(held.getsockname()[1])


def write_program(path: Path, source: str) -> None:
    """A command that runs this Python `source`, whatever the paths of both look like."""
    path.parent.mkdir(exist_ok=True)
    path.with_suffix(".py").write_text(source)
    words = shlex.join([sys.executable, str(path.with_suffix(".py"))])
    path.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
    path.chmod(0o755)


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the model hub, which is itself unreachable.

    The same as HF_HOME and HF_HUB_OFFLINE, which are read only once in a process.
    """
    cache = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return cache


@pytest.fixture
def refusing(port: int) -> str:
    """The URL of a server that does not answer."""
    return f"http://127.0.0.1:{port}"
