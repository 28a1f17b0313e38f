"""Answers of a library that has an environment of its own."""

import os
import subprocess
import tempfile
from pathlib import Path
from typing import TypeVar

import msgspec

from runtime.telemetry import SWITCHES

Answer = TypeVar("Answer")


def answer(python: Path, script: str, question: object, kind: type[Answer]) -> Answer:
    """Run the file `script` of this folder with the interpreter `python`. It reads the JSON file
    that is named first and writes the one that is named second. Raises SystemExit."""
    with tempfile.TemporaryDirectory() as folder:
        asked, answered = Path(folder, "asked.json"), Path(folder, "answered.json")
        asked.write_bytes(msgspec.json.encode(question))
        # -I, or else this folder's optimum.py would shadow the package.
        command = [str(python), "-I", str(Path(__file__).with_name(script))]
        done = subprocess.run(
            [*command, str(asked), str(answered)],
            env={**os.environ, **SWITCHES, "HF_HUB_OFFLINE": "1"},
            check=False,
        )
        if done.returncode != 0:
            raise SystemExit(f"{script} failed ({done.returncode}); see above")
        return msgspec.json.decode(answered.read_bytes(), type=kind)
