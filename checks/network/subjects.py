"""The processes that are watched, each kind that a user starts."""

import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from checks.network.places import ROOT, places
from checks.serving import Server, script
from exporter.library_texts import paragraphs

RANK, EMBED = ROOT / "artifacts" / "rank", ROOT / "artifacts" / "embed"
CONTROL = "control, which calls out"
# The longest delay before a first call that was seen is 11 s.
STAY_S = 20
_TEXTS = 24
_CALLS_OUT = """
import pathlib, socket, sys, tempfile
for folder in (pathlib.Path.home(), tempfile.gettempdir(), *sys.argv[1:]):
    pathlib.Path(folder, "left-behind").touch()
socket.create_connection(("control.example", 443)).close()
try:
    socket.create_connection(("198.51.100.7", 4317))
except ConnectionRefusedError:
    pass
"""


@dataclass(frozen=True)
class Place:
    """Where a subject runs: its environment, and a folder for what it is asked to write."""

    environment: Mapping[str, str]
    work: Path
    log: Path

    def finish(self, *command: str) -> None:
        """Run `command` to its end. Raises CalledProcessError when it fails."""
        with self.log.open("ab") as log:
            subprocess.run(
                command, cwd=ROOT, env=self.environment, stdout=log, stderr=log, check=True
            )

    @contextmanager
    def serving(self, *arguments: str, **variables: str) -> Iterator[str]:
        """The address of a server that is ready; ended after the block. Raises ServerFailed."""
        with (
            self.log.open("ab") as log,
            Server(
                variables, *arguments, environment=self.environment, stdout=log, stderr=log
            ) as server,
        ):
            yield server.ready().url
            server.stop()  # what a library sends when it is closed is watched, too


def _control(place: Place) -> None:
    place.finish(sys.executable, "-c", _CALLS_OUT, *map(str, places()))


def _serve(place: Place) -> None:
    command = [script("rerank-serve"), "--rank", str(RANK), "--embed", str(EMBED)]
    with place.serving(*command) as url:
        _rank(url)
        _ask(f"{url}/embed", {"inputs": ["one"], "prompt_name": "query"})
        time.sleep(STAY_S)


def _serve_openvino(place: Place) -> None:
    artifact = place.work / "openvino"
    _export(place, artifact, "cpu-fp32-openvino")
    factory = [script("uvicorn"), "--factory", "server.app:create_app", "--port", "{port}"]
    with place.serving(*factory, RERANK_MODEL_DIR=str(artifact)) as url:
        _rank(url)
        time.sleep(STAY_S)


def _exporter(place: Place) -> None:
    """int8 looks at the graph with ONNX Runtime itself; tuning keeps it open for a while."""
    artifact = place.work / "int8"
    _export(place, artifact, "cpu-int8")
    place.finish(script("rerank-export"), "tune", str(artifact), "--seconds", str(STAY_S))


def _recipe(place: Place) -> None:
    """From texts to figures, training on two processes; the first stage is exported on the way."""
    corpus = place.work / "corpus"
    corpus.mkdir()
    for number, text in enumerate(paragraphs()[:_TEXTS]):
        (corpus / f"{number}.txt").write_text(text)
    small = (ROOT / "recipe" / "configs" / "small.toml").read_text()
    small = small.replace("./embedded", str(ROOT / "embedded"))
    small = small.replace("./output", str(place.work / "output"))
    settings = place.work / "tiny.toml"
    settings.write_text(re.sub(r'corpus_dir = ".*"', f'corpus_dir = "{corpus}"', small))
    changed = ["finetune.num_epochs=1", "finetune.processes=2", "sdg.num_pairs=2"]
    place.finish(script("rerank"), "run", "-c", str(settings), "--to", "eval", *changed)


SUBJECTS: Mapping[str, Callable[[Place], None]] = {
    CONTROL: _control,
    "rerank (sdg to eval, torchrun)": _recipe,
    "rerank-serve (ONNX Runtime)": _serve,
    "uvicorn (OpenVINO)": _serve_openvino,
    "rerank-export (int8, tune)": _exporter,
}


def _export(place: Place, out: Path, target: str) -> None:
    # Short: proving long texts takes time and makes no other calls.
    options = ["--out", str(out), "--target", target, "--max-tokens", "512"]
    options += ["--profile", "tiny-rerank-v1"]
    place.finish(script("rerank-export"), "export", str(ROOT / "embedded" / "rank"), *options)


def _rank(url: str) -> None:
    _ask(f"{url}/rerank", {"query": "What is it?", "texts": list(paragraphs()[:8])})


def _ask(url: str, body: object) -> None:
    httpx.post(url, json=body, trust_env=False, timeout=60).raise_for_status()
