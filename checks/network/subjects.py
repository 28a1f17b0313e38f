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
from checks.serving import script
from exporter.library_texts import paragraphs

RANK, EMBED = ROOT / "artifacts" / "rank", ROOT / "artifacts" / "embed"
CONTROL = "control, which calls out"
# The longest delay before a first call that was seen is 11 s.
STAY_S = 20
_READY_S = 300
_ADDRESS = "http://127.0.0.1:8000"  # this namespace has no other listeners
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
    def running(self, *command: str, **variables: str) -> Iterator[None]:
        """A server that is ready; ended after the block."""
        environment = {**self.environment, **variables}
        with self.log.open("ab") as log:
            process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log)
        try:
            end = time.monotonic() + _READY_S
            while not _is_ready():
                if process.poll() is not None or time.monotonic() > end:
                    raise subprocess.CalledProcessError(process.returncode or -1, command)
                time.sleep(0.2)
            yield
        finally:
            process.terminate()
            process.wait()


def _control(place: Place) -> None:
    place.finish(sys.executable, "-c", _CALLS_OUT, *map(str, places()))


def _serve(place: Place) -> None:
    command = [script("rerank-serve"), "--rank", str(RANK), "--embed", str(EMBED)]
    with place.running(*command):
        _rank()
        _ask("/embed", {"inputs": ["one"], "prompt_name": "query"})
        time.sleep(STAY_S)


def _serve_openvino(place: Place) -> None:
    artifact = place.work / "openvino"
    _export(place, artifact, "cpu-fp32-openvino")
    factory = [script("uvicorn"), "--factory", "server.app:create_app", "--port", "8000"]
    with place.running(*factory, RERANK_MODEL_DIR=str(artifact)):
        _rank()
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


def _is_ready() -> bool:
    try:
        found = httpx.get(f"{_ADDRESS}/v1/health/ready", trust_env=False, timeout=5)
    except httpx.TransportError:
        return False
    return found.is_success


def _rank() -> None:
    _ask("/rerank", {"query": "What is it?", "texts": list(paragraphs()[:8])})


def _ask(path: str, body: object) -> None:
    httpx.post(_ADDRESS + path, json=body, trust_env=False, timeout=60).raise_for_status()
