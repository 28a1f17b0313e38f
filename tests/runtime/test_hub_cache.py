"""A repository in the hub's cache, named by its own folder."""

import shutil
from contextlib import closing
from pathlib import Path

import pytest

from exporter.cli import main
from exporter.pipeline import verify
from runtime.errors import ArtifactError
from runtime.hub_cache import hub_name, snapshot_of
from runtime.manifest import read_manifest
from runtime.opening import open_ranker
from tests.hub_cache import as_snapshot

COMMITS = ["c0ffee" * 6 + "c0ff", "b0a710ad" * 5]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two snapshots, and no ref."""
    repository = tmp_path / "models--org--name"
    for commit in COMMITS:
        (repository / "snapshots" / commit).mkdir(parents=True)
    return repository


def ref(repository: Path, content: str) -> None:
    (repository / "refs").mkdir(exist_ok=True)
    (repository / "refs" / "main").write_text(content)


def test_main_s_snapshot_stands_for_the_repository(repository: Path, tmp_path: Path) -> None:
    ref(repository, f"{COMMITS[1]}\n")
    wanted = repository / "snapshots" / COMMITS[1]
    assert snapshot_of(repository) == wanted
    assert snapshot_of(repository / "snapshots") == wanted
    assert snapshot_of(wanted) == wanted
    (tmp_path / "link").symlink_to(repository)
    assert snapshot_of(tmp_path / "link") == wanted


def test_the_only_snapshot_needs_no_ref(repository: Path) -> None:
    shutil.rmtree(repository / "snapshots" / COMMITS[0])
    assert snapshot_of(repository).name == COMMITS[1]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, f"its snapshots are {COMMITS[1]}, {COMMITS[0]}, and no refs/main says"),
        ("../../../etc", "no refs/main says"),
        ("a" * 40, f"its refs/main names {'a' * 40}, its snapshots are"),
    ],
)
def test_what_cannot_be_chosen_is_reported(
    repository: Path, content: str | None, message: str
) -> None:
    if content is not None:
        ref(repository, content)
    with pytest.raises(OSError, match="name one of them") as refused:
        snapshot_of(repository)
    assert message in str(refused.value.strerror)


def test_a_repository_without_snapshots_is_reported(repository: Path) -> None:
    for commit in COMMITS:
        shutil.rmtree(repository / "snapshots" / commit)
    with pytest.raises(OSError, match="without a snapshot"):
        snapshot_of(repository)
    with pytest.raises(ArtifactError, match="without a snapshot"):
        open_ranker(repository)


def test_a_folder_of_snapshots_alone_is_no_repository(tmp_path: Path) -> None:
    (tmp_path / "snapshots" / COMMITS[0]).mkdir(parents=True)
    assert snapshot_of(tmp_path) == tmp_path


def test_a_snapshot_knows_its_name(repository: Path, tmp_path: Path) -> None:
    assert hub_name(repository / "snapshots" / COMMITS[0]) == "org/name"
    assert hub_name(repository / "snapshots" / COMMITS[0] / "0_Transformer") == "org/name"
    assert hub_name(tmp_path) is None


def test_an_artifact_s_repository_is_served_verified_and_inspected(
    rank_artifact: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    snapshot = as_snapshot(shutil.copytree(rank_artifact, tmp_path / "copy"), tmp_path / "hub")
    repository = snapshot.parents[1]
    with closing(open_ranker(repository)) as ranker:
        assert ranker.info.proven
    assert verify(repository, None, None) == read_manifest(rank_artifact)
    assert main(["inspect", str(repository)]) == 0
    assert "llama-nemotron" in capsys.readouterr().out
    assert main(["inspect", str(tmp_path / "nowhere")]) == 1
    assert "nowhere" in capsys.readouterr().err
