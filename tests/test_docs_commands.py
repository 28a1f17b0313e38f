"""The commands of the README and of docs/, run as they stand, page by page.

A page has a copy of the repository (links to its files) whose outputs are its own. Blocks run in
their order; one that starts a server leaves it running until the next one starts. Blocks that say
what they need are left out, and so are those that `make docs` copied from another page.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from checks.ports import free_ports
from exporter.pipeline import ExportArgs
from tests.conftest import Exported
from tests.fences import COMMANDS, PAGES, ROOT, Fence, fences
from tests.tiny_checkpoints import write_bert
from tests.waiting import PATIENCE_S, wait_until

pytestmark = pytest.mark.heavy

EMBEDDED = {"rank": "tiny-rerank-v1", "embed": "tiny-embed-v1"}
_MADE_HERE = {".git", ".venv", ".venvs", "artifacts", "build", "dist", "output", "triton"}
_SERVES = re.compile(r"^(?:\w+=\S+ )*(?:make (?:serve|serve-embed|dev)|\S*rerank-serve)\b", re.M)
_PORTS = {"NIM_HTTP_API_PORT": 8000, "NIM_TRITON_GRPC_PORT": 8001, "NIM_TRITON_METRICS_PORT": 8002}
# Answers are shown with fewer digits than they have.
_SHOWN_DIGITS = 2e-3


def commands(page: Path) -> list[Fence]:
    """What is run of a page: its commands, and the answers that stand behind them."""
    own = [fence for fence in fences(page) if not fence.generated and not fence.needs]
    return [fence for fence in own if fence.language in (*COMMANDS, "json")]


class Reader:
    """Somebody who types the commands of one page in a fresh checkout."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for entry in ROOT.iterdir():
            if entry.name not in _MADE_HERE:
                (folder / entry.name).symlink_to(entry)
        (folder / ".venv").mkdir()
        for entry in Path(sys.prefix).iterdir():
            if entry.name != ".installed":
                (folder / ".venv" / entry.name).symlink_to(entry)
        (folder / ".venv" / ".installed").touch()
        write_bert(folder / "path" / "to" / "checkpoint")
        # An answer that is an error ends the block.
        (folder / ".curlrc").write_text("fail-with-body\nshow-error\n")
        self.ports = dict(zip(_PORTS, free_ports(len(_PORTS)), strict=True))
        self.environment = os.environ | {
            "CURL_HOME": str(folder),
            "PYTHONPATH": str(ROOT),
            "RERANK_URL": f"http://localhost:{self.ports['NIM_HTTP_API_PORT']}",
            **{name: str(port) for name, port in self.ports.items()},
        }
        self.server: subprocess.Popen[bytes] | None = None
        self.said = ""

    def does(self, fence: Fence) -> None:
        """Run one block, or compare what the last one said with the answer that the page shows."""
        if fence.language == "json":
            _like(json.loads(self.said), json.loads(fence.text))
            return
        text = fence.text
        for name, port in _PORTS.items():
            text = text.replace(f"localhost:{port}", f"localhost:{self.ports[name]}")
        interpreter = ["bash", "-euo", "pipefail", "-c"]
        if fence.language == "python":
            interpreter = [".venv/bin/python", "-c"]
        if fence.language == "bash" and _SERVES.search(text):
            self._serve([*interpreter, text])
        else:
            self._run([*interpreter, text], fence)

    def leaves(self) -> None:
        """End the server that runs, if any."""
        if self.server is not None:
            os.killpg(self.server.pid, signal.SIGTERM)
            self.server.wait(PATIENCE_S)
            self.server = None

    def _run(self, command: list[str], fence: Fence) -> None:
        done = subprocess.run(
            command,
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
        )
        assert done.returncode == 0, f"{fence.place}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
        self.said = done.stdout

    def _serve(self, command: list[str]) -> None:
        self.leaves()
        log = self.folder / "server.log"
        with log.open("wb") as out:
            self.server = server = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.environment,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        wait_until(
            lambda: server.poll() is not None or _is_ready(self.environment["RERANK_URL"]),
            lambda: log.read_text("utf-8")[-2000:],
        )
        assert server.poll() is None, log.read_text("utf-8")[-2000:]


def _is_ready(address: str) -> bool:
    try:
        return httpx.get(f"{address}/v1/health/ready").status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def _like(found: Any, shown: Any) -> None:
    if isinstance(shown, dict):
        assert found.keys() == shown.keys()
        for name, value in shown.items():
            _like(found[name], value)
    elif isinstance(shown, list):
        assert len(found) == len(shown)
        for one, other in zip(found, shown, strict=True):
            _like(one, other)
    elif isinstance(shown, float):
        assert found == pytest.approx(shown, abs=_SHOWN_DIGITS)
    else:
        assert found == shown


@contextmanager
def reading(folder: Path) -> Iterator[Reader]:
    """A reader, whose server ends with the block."""
    reader = Reader(folder)
    try:
        yield reader
    finally:
        reader.leaves()


@pytest.mark.parametrize("page", [p for p in PAGES if commands(p)], ids=lambda page: page.stem)
def test_the_commands_of_a_page_work(page: Path, tmp_path: Path, exported: Exported) -> None:
    with reading(tmp_path) as reader:
        if page.name != "README.md":  # which shows how they are made
            for kind, name in EMBEDDED.items():
                artifact = exported(ROOT / "embedded" / kind, ExportArgs(profile=name))
                shutil.copytree(artifact, tmp_path / "artifacts" / kind)
        for fence in commands(page):
            reader.does(fence)
