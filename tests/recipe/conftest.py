"""A command line in a folder of its own, a small corpus, and an endpoint that fails."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
STAND_IN = Path(__file__).with_name("openai_stand_in.py")
KEY = "nvapi-very-secret"
WAIT_S = 30


@pytest.fixture
def rerank(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[str]]:
    """`rerank ARGUMENTS` as a process in an empty folder; its exit code is not looked at."""

    def call(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "recipe.cli", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **environment},
            capture_output=True,
            text=True,
            check=False,
        )

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
def stand_in(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """Starts an endpoint and returns its base URL."""
    started = []

    def start(*options: str) -> str:
        port_file = tmp_path / f"port-{len(started)}"
        process = subprocess.Popen([sys.executable, STAND_IN, port_file, KEY, *options])
        started.append(process)
        deadline = time.monotonic() + WAIT_S
        while not port_file.exists():
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        return f"http://127.0.0.1:{port_file.read_text()}"

    yield start
    for process in started:
        process.kill()
        process.wait()
