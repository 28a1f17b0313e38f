"""Names on the hub in the provenance: their current commit, from a real HTTP server."""

import json
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import msgspec
import pytest
from huggingface_hub import constants

from exporter import pipeline
from recipe.errors import BadConfig
from recipe.first_stage import FirstStage, embedder_commit, ensure_artifact
from recipe.hub import UNKNOWN, commit_of, model_commit, pinned, unpinned
from recipe.stage import DONE_FILE, perform
from tests.recipe.test_stage import TOY, Toy

COMMIT = "1c0d1856f3fb595b2dda98d4b61061fa6d782d51"


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
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


def test_the_hub_says_which_commit_a_branch_is(
    hub_cache: Path, hub: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", hub)
    assert commit_of("someone/model", "model") == COMMIT


def test_without_hub_and_cache_the_commit_is_unknown(
    hub_cache: Path, refusing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", refusing)
    assert commit_of("someone/model", "model") == UNKNOWN


def test_a_directory_has_no_commit(tmp_path: Path) -> None:
    assert model_commit(str(tmp_path)) == model_commit("./not/there") == {}


def test_a_name_with_its_commit_is_recorded_as_it_stands() -> None:
    name = f"someone/model@{COMMIT}"
    assert model_commit(name) == {name: COMMIT}
    assert pinned(name, {name: COMMIT}) == name
    assert unpinned(name) == ("someone/model", COMMIT)


def test_a_stage_stays_with_the_commit_that_it_began_with(tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    settings = Toy(source="someone/model", folder=str(folder))
    commits, checked, read = {"someone/model": COMMIT}, [], []

    def make(settings: Toy, _: Callable[[str], None]) -> None:
        read.append(settings.source)
        (folder / "copy.txt").touch()
        if (folder / "stop").exists():
            raise KeyboardInterrupt

    def go(*, force: bool = False) -> str:
        lines: list[str] = []
        perform(stage, settings, force=force, log=lines.append)
        return "\n".join(lines)

    stage = replace(
        TOY,
        inputs=lambda _: [],
        check=lambda settings: checked.append(settings.source),
        run=make,
        sources=lambda _: commits,
        pin=lambda settings, found: msgspec.structs.replace(
            settings, source=pinned(settings.source, found)
        ),
    )
    (folder / "stop").touch()
    with pytest.raises(KeyboardInterrupt):
        go()
    (folder / "stop").unlink()
    commits["someone/model"] = COMMIT[::-1]
    assert f"this run keeps {COMMIT}" in go()
    assert checked == read == [f"someone/model@{COMMIT}"] * 2
    mark = json.loads((folder / DONE_FILE).read_text())
    assert mark["inputs"] == {"someone/model": COMMIT}
    assert mark["settings"]["source"] == "someone/model"
    finished = go()
    assert f"this run keeps {COMMIT}" in finished
    assert "already finished" in finished
    commits["someone/model"] = UNKNOWN
    assert go().startswith("already finished")
    commits["someone/model"] = COMMIT[::-1]
    go(force=True)
    assert read[2:] == [f"someone/model@{COMMIT[::-1]}"]
    commits["someone/model"] = UNKNOWN
    assert "recorded without its commit" in go(force=True)
    assert read[3:] == ["someone/model"]


def test_an_embedder_keeps_its_commit_whatever_kills_the_stage_around_its_export(
    tmp_path: Path, embed_artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = FirstStage(
        model=f"someone/model@{COMMIT}",
        target="cpu-fp32",
        query_prefix="",
        passage_prefix="",
        query_max_length=16,
        passage_max_length=16,
        folder=str(tmp_path),
        batch_rows=8,
    )

    def killed(source: str, out: Path, _: pipeline.ExportArgs) -> None:
        assert source == wanted.model
        shutil.copytree(embed_artifact, out)
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "export", killed)
    with pytest.raises(KeyboardInterrupt):
        ensure_artifact(wanted, lambda _: None)
    moved = msgspec.structs.replace(wanted, model="someone/model")
    assert embedder_commit(moved) == {"someone/model": COMMIT}
    other = msgspec.structs.replace(wanted, model=f"someone/model@{COMMIT[::-1]}")
    with pytest.raises(BadConfig, match=f"of the commit {COMMIT}"):
        ensure_artifact(other, lambda _: None)
