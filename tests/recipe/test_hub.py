"""Names on the hub in the provenance: the commit that they are now, asked of a real HTTP server."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from recipe.errors import OutputRefused
from recipe.hub import UNKNOWN, model_commit
from recipe.stage import DONE_FILE, perform
from tests.recipe.conftest import ROOT
from tests.recipe.test_stage import TOY, Toy

COMMIT = "1c0d1856f3fb595b2dda98d4b61061fa6d782d51"
ASK = "from recipe.hub import commit_of; print(commit_of('someone/model', 'model'))"


class _Hub(BaseHTTPRequestHandler):
    """Knows one model and the commit of its main branch."""

    def do_GET(self) -> None:
        known = {
            "/api/models/someone/model/revision/main": {"id": "someone/model", "sha": COMMIT},
            f"/api/models/someone/model/tree/{COMMIT}": [],
        }
        found = known.get(self.path.partition("?")[0])
        self.send_response(200 if found is not None else 404)
        self.send_header("content-type", "application/json")
        self.end_headers()
        self.wfile.write(json.dumps(found).encode())

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub() -> Iterator[str]:
    """The address of a hub."""
    with HTTPServer(("127.0.0.1", 0), _Hub) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def ask(home: Path, endpoint: str) -> str:
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "HF_HOME": str(home),
        "HF_ENDPOINT": endpoint,
        "HF_HUB_DOWNLOAD_TIMEOUT": "5",
    }
    command = [sys.executable, "-c", ASK]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_hub_says_which_commit_a_branch_is(tmp_path: Path, hub: str) -> None:
    assert ask(tmp_path, hub) == COMMIT


def test_without_hub_and_cache_the_commit_is_unknown(tmp_path: Path) -> None:
    assert ask(tmp_path, "http://127.0.0.1:1") == UNKNOWN


def test_a_directory_has_no_commit(tmp_path: Path) -> None:
    assert model_commit(str(tmp_path)) == model_commit("./not/there") == {}


def test_another_commit_is_another_input_and_an_unknown_one_is_said(tmp_path: Path) -> None:
    (tmp_path / "source.txt").write_text("word ")
    settings = Toy(source=str(tmp_path / "source.txt"), folder=str(tmp_path / "out"))
    commits = {"someone/model": COMMIT}

    def go() -> list[str]:
        said: list[str] = []
        perform(with_model, settings, force=False, say=said.append)
        return said

    with_model = replace(TOY, sources=lambda _: commits)
    assert go() == ["copied"]
    mark = json.loads((tmp_path / "out" / DONE_FILE).read_text())
    assert mark["inputs"]["someone/model"] == COMMIT
    commits["someone/model"] = UNKNOWN
    assert "recorded without its commit" in go()[0]
    commits["someone/model"] = COMMIT[::-1]
    with pytest.raises(OutputRefused, match="another content of someone/model"):
        go()
