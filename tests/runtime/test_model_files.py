"""Whatever lies in a model directory in the place of a file: told in a line, never waited for."""

import concurrent.futures.thread
import errno
import itertools
import logging
import os
import shutil
import stat
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import msgspec
import onnx
import pytest

from exporter.seal import seal
from runtime import artifact as artifact_module
from runtime.errors import ArtifactError, EngineUnavailable, FileChanged, ManifestError
from runtime.manifest import Manifest, check_files, hash_file, read_manifest, write_manifest
from runtime.model_files import GRAPH_BYTES, JSON_BYTES, TOKENIZER_BYTES
from runtime.opening import open_ranker
from runtime.requests import RankRequest
from tests.hub_cache import as_snapshot
from tests.runtime.test_artifact import finish
from tests.waiting import PATIENCE_S

Put = Callable[[Path], object]


def put_directory(path: Path) -> None:
    path.mkdir()


def put_socket(path: Path) -> None:
    os.mknod(path, stat.S_IFSOCK | 0o600)


def put_link_to(target: str) -> Put:
    return lambda path: path.symlink_to(target)


def put_loop(path: Path) -> None:
    path.symlink_to(path.name)


STRANGERS: dict[str, tuple[Put, str]] = {
    "FIFO": (os.mkfifo, "a FIFO"),
    "socket": (put_socket, "a socket"),
    "directory": (put_directory, "a directory"),
    "device": (put_link_to("/dev/zero"), "'/dev/zero', outside its directory"),
    "dangling": (put_link_to("nowhere"), "a link to 'nowhere', which does not exist"),
    "loop": (put_loop, "symbolic links"),
    "outside": (put_link_to(__file__), "outside its directory"),
}
MODEL_FILES = ["manifest.json", "parity.json", "model.onnx", "tokenizer/tokenizer.json"]


@pytest.fixture
def artifact(bare_directory: Path) -> Path:
    finish(bare_directory)
    return bare_directory


def replace(path: Path, stranger: str) -> str:
    """Put a stranger in the place of the file; what is told of it."""
    path.unlink(missing_ok=True)
    put, message = STRANGERS[stranger]
    put(path)
    return message


@pytest.mark.parametrize("stranger", STRANGERS)
@pytest.mark.parametrize("name", MODEL_FILES)
def test_what_is_no_file_of_the_directory_is_refused(
    artifact: Path, name: str, stranger: str
) -> None:
    """For a manifest, too: a directory that has one in any form is never taken for a bare one."""
    message = replace(artifact / name, stranger)
    with pytest.raises(ArtifactError) as refused:
        open_ranker(artifact)
    assert Path(name).name in str(refused.value)
    assert message in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("stranger", STRANGERS)
@pytest.mark.parametrize("name", ["model.onnx", "tokenizer/tokenizer_config.json"])
def test_a_bare_directory_is_read_with_the_same_care(
    bare_directory: Path, name: str, stranger: str
) -> None:
    message = replace(bare_directory / name, stranger)
    with pytest.raises(ArtifactError) as refused:
        open_ranker(bare_directory)
    assert message in str(refused.value)


@pytest.mark.parametrize("stranger", STRANGERS)
def test_a_tuning_that_is_no_file_is_logged_and_not_used(
    artifact: Path, stranger: str, caplog: pytest.LogCaptureFixture
) -> None:
    message = replace(artifact / "tuning.json", stranger)
    with caplog.at_level(logging.WARNING):
        open_ranker(artifact).close()
    assert "tuning.json cannot be used" in caplog.text
    assert message in caplog.text


@pytest.mark.parametrize(
    ("name", "most"),
    [
        ("manifest.json", JSON_BYTES),
        ("parity.json", JSON_BYTES),
        ("model.onnx", GRAPH_BYTES),
        ("tokenizer/tokenizer.json", TOKENIZER_BYTES),
    ],
)
def test_a_file_of_any_size_is_refused_unread(artifact: Path, name: str, most: int) -> None:
    """A tebibyte of holes."""
    os.truncate(artifact / name, 1 << 40)
    with pytest.raises(ArtifactError, match=f"has {1 << 40} bytes, wanted {most} at most"):
        open_ranker(artifact)


@pytest.mark.parametrize("name", ["model.onnx", "manifest.json", "tokenizer/tokenizer.json"])
def test_a_file_that_may_not_be_read_names_the_user(
    artifact: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    forbidden, opened = artifact / name, os.open

    # Tests may run as root, whom no permission stops: the system call itself has to refuse.
    def refuse(path: Any, *given: Any, **named: Any) -> int:
        if path == forbidden:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        return opened(path, *given, **named)

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(ArtifactError, match=f"Permission denied; .*{os.getuid()}"):
        open_ranker(artifact)


@pytest.mark.parametrize("put", [Path.touch, put_link_to("nowhere"), os.mkfifo])
def test_a_directory_that_is_none(tmp_path: Path, put: Put) -> None:
    place = tmp_path / "place"
    put(place)
    with pytest.raises(ArtifactError, match="wanted"):
        open_ranker(place)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a\0b", "control characters"),
        ("a\nb", "control characters"),
        ("a\u2028b", "control characters"),
        ("a\\b", "backslashes"),
        ("", "plain relative path"),
        (".", "plain relative path"),
        ("./model.onnx", "plain relative path"),
        ("tokenizer//tokenizer.json", "plain relative path"),
        ("tokenizer/", "plain relative path"),
        ("/etc/hostname", "outside"),
        ("tokenizer/../../secret", "outside"),
        ("x" * 100_000, "at most 1024 bytes"),
    ],
)
def test_a_name_that_no_file_of_the_directory_has(artifact: Path, name: str, message: str) -> None:
    manifest = read_manifest(artifact)
    files = {**manifest.files, name: "sha256:0"}
    write_manifest(artifact, msgspec.structs.replace(manifest, files=files))
    with pytest.raises(ManifestError) as refused:
        open_ranker(artifact)
    assert message in str(refused.value)
    assert len(str(refused.value)) < 1000
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("name", ["tokenizer", "x" * 300])
def test_a_name_of_what_is_no_file(artifact: Path, name: str) -> None:
    manifest = read_manifest(artifact)
    files = {name: "sha256:0", **manifest.files}
    write_manifest(artifact, msgspec.structs.replace(manifest, files=files))
    with pytest.raises(ArtifactError, match=r"a directory|too long"):
        open_ranker(artifact)


@pytest.mark.parametrize("name", ["manifest.json", "parity.json"])
def test_nesting_that_no_stack_holds(artifact: Path, name: str) -> None:
    (artifact / name).write_text('{"schema": 1, "versions": ' + "[" * 100_000)
    if name == "parity.json":
        recorded = read_manifest(artifact)
        files = {**recorded.files, name: hash_file(artifact / name)}
        write_manifest(artifact, msgspec.structs.replace(recorded, files=files))
    with pytest.raises(ManifestError, match=f"{name} cannot be used"):
        open_ranker(artifact)


def test_links_within_the_directory_are_followed(artifact: Path) -> None:
    (artifact / "real").mkdir()
    for name in ("model.onnx", "manifest.json"):
        (artifact / name).rename(artifact / "real" / name)
        (artifact / name).symlink_to(Path("real") / name)
    (artifact / "tokenizer").rename(artifact / "real" / "tokenizer")
    (artifact / "tokenizer").symlink_to("real/tokenizer")
    ranker = open_ranker(artifact)
    ranker.warm_up()
    ranker.close()
    assert ranker.info.proven


@pytest.fixture
def with_weights_beside(rank_artifact: Path, tmp_path: Path) -> Path:
    """An artifact whose graph keeps its weights in another file, as those of large models do."""
    directory = shutil.copytree(rank_artifact, tmp_path / "artifact")
    manifest, graph = read_manifest(directory), onnx.load(directory / "model.onnx")
    for name in ("manifest.json", "model.onnx"):
        (directory / name).unlink()
    onnx.save(
        graph,
        directory / "model.onnx",
        save_as_external_data=True,
        location="model.onnx.data",
    )
    seal(directory, manifest)
    return directory


def scores(directory: Path, engine: str) -> list[float]:
    """What the artifact gives on `engine`, once it has proven itself."""
    ranker = open_ranker(directory, engine=engine)
    ranker.warm_up()
    found = ranker.rank(RankRequest("query", ["passage", "another"])).logits
    ranker.close()
    assert ranker.info.proven
    return cast(list[float], found.tolist())


def test_a_snapshot_in_the_hub_s_cache_is_served(with_weights_beside: Path, tmp_path: Path) -> None:
    """Every file is a link to ../../blobs, the weights beside the graph too."""
    wanted = scores(with_weights_beside, "onnxruntime-cpu")
    snapshot = as_snapshot(with_weights_beside, tmp_path / "hub")
    assert (snapshot / "model.onnx.data").is_symlink()
    assert scores(snapshot, "onnxruntime-cpu") == wanted


def test_openvino_takes_a_snapshot_whose_graph_has_its_weights(
    rank_artifact: Path, with_weights_beside: Path, tmp_path: Path
) -> None:
    """It looks after the others by itself; the message says what to do."""
    whole = shutil.copytree(rank_artifact, tmp_path / "whole")
    wanted = scores(whole, "openvino-fp32")
    assert scores(as_snapshot(whole, tmp_path / "hub"), "openvino-fp32") == wanted
    snapshot = as_snapshot(with_weights_beside, tmp_path / "other-hub")
    with pytest.raises(EngineUnavailable, match="cp -rL"):
        open_ranker(snapshot, engine="openvino-fp32")


def test_a_snapshot_that_nothing_describes_is_served(bare_directory: Path, tmp_path: Path) -> None:
    ranker = open_ranker(as_snapshot(bare_directory, tmp_path / "hub"))
    ranker.warm_up()
    ranker.close()


def test_a_blob_that_is_not_what_was_exported(artifact: Path, tmp_path: Path) -> None:
    snapshot = as_snapshot(artifact, tmp_path / "hub")
    with (snapshot / "tokenizer" / "tokenizer.json").open("ab") as blob:
        blob.write(b"\n")
    with pytest.raises(FileChanged, match=r"tokenizer\.json"):
        open_ranker(snapshot)


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx", "tokenizer/tokenizer.json"])
def test_a_snapshot_does_not_reach_into_another_repository(
    artifact: Path, tmp_path: Path, name: str
) -> None:
    snapshot = as_snapshot(artifact, tmp_path / "hub")
    other = tmp_path / "hub" / "models--org--other" / "blobs" / "blob"
    other.parent.mkdir(parents=True)
    shutil.copyfile(snapshot / name, other)
    (snapshot / name).unlink()
    (snapshot / name).symlink_to(other)
    with pytest.raises(ArtifactError, match=r"models--org--other.*outside its directory"):
        open_ranker(snapshot)


def test_blobs_that_lie_elsewhere_are_no_blobs(artifact: Path, tmp_path: Path) -> None:
    """A link in their place, which may come with a download, would make a cache of any folder of
    the machine. Who wants the cache on another disk moves all of it."""
    snapshot = as_snapshot(artifact, tmp_path / "hub")
    blobs = snapshot.parents[1] / "blobs"
    blobs.rename(tmp_path / "elsewhere")
    blobs.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ArtifactError, match=r"outside its directory.*blobs is a link here.*move"):
        open_ranker(snapshot)
    blobs.unlink()
    (tmp_path / "elsewhere").rename(blobs)
    (tmp_path / "hub").rename(tmp_path / "disk")
    (tmp_path / "hub").symlink_to(tmp_path / "disk")
    open_ranker(snapshot).close()


def test_a_link_to_the_directory_may_be_swapped_while_it_is_read(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything comes from the directory to which it led at first."""
    served, empty = tmp_path / "served", tmp_path / "empty"
    served.symlink_to(artifact)
    empty.mkdir()

    def swap_and_read(directory: Path) -> Manifest:
        served.unlink()
        served.symlink_to(empty)
        return read_manifest(directory)

    monkeypatch.setattr(artifact_module, "read_manifest", swap_and_read)
    open_ranker(served).close()
    assert served.resolve() == empty


@pytest.mark.parametrize("name", ["model.onnx", "tokenizer/tokenizer.json"])
def test_a_file_that_is_replaced_while_it_is_opened(
    artifact: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The engine may have opened one and the hash be the other's, though size and date agree."""

    def replace_and_check(directory: Path, manifest: Manifest) -> None:
        copy, first = directory / "copy", (directory / name).stat().st_ctime_ns
        shutil.copy2(directory / name, copy)
        while copy.stat().st_ctime_ns == first:  # of a clock that ticks some hundred times a second
            shutil.copystat(directory / name, copy)
        copy.rename(directory / name)
        check_files(directory, manifest)

    monkeypatch.setattr(artifact_module, "check_files", replace_and_check)
    with pytest.raises(ArtifactError, match="replaced while it was opened"):
        open_ranker(artifact)


def test_a_file_that_is_linked_while_it_is_opened(
    artifact: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a plan's build does, which shares the weights: another ctime, and no other content."""
    first = (artifact / "model.onnx").stat().st_ctime_ns

    def link_and_check(directory: Path, manifest: Manifest) -> None:
        while (directory / "model.onnx").stat().st_ctime_ns == first:
            os.link(directory / "model.onnx", tmp_path / "other")
            (tmp_path / "other").unlink()
        check_files(directory, manifest)

    monkeypatch.setattr(artifact_module, "check_files", link_and_check)
    open_ranker(artifact).close()


def test_a_file_that_has_another_number_at_every_look(
    artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As over FUSE, where the files are those of an object store."""
    look, numbers = os.stat, itertools.count(1 << 40)

    def look_anew(path: Any, **named: Any) -> os.stat_result:
        found = look(path, **named)
        fields = {field: getattr(found, field) for field in dir(found) if field.startswith("st_")}
        return os.stat_result((found.st_mode, next(numbers), *found[2:]), fields)

    monkeypatch.setattr(os, "stat", look_anew)
    assert (artifact / "model.onnx").stat() != (artifact / "model.onnx").stat()
    open_ranker(artifact).close()


def test_a_file_that_hangs_holds_no_process(
    artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits for it are daemons that nobody joins at the end: as of a disk that is gone."""
    hangs, over = threading.Event(), threading.Event()
    before = set(threading.enumerate())

    def hang(directory: Path, manifest: Manifest) -> None:
        hangs.set()
        assert over.wait(PATIENCE_S)
        check_files(directory, manifest)

    monkeypatch.setattr(artifact_module, "check_files", hang)
    opening = threading.Thread(target=lambda: open_ranker(artifact).close(), daemon=True)
    opening.start()
    assert hangs.wait(PATIENCE_S)
    mine = [thread for thread in threading.enumerate() if thread not in before]
    joined = set(concurrent.futures.thread._threads_queues)
    assert mine
    assert [t.name for t in mine if not t.daemon or t in joined] == []
    over.set()
    opening.join(PATIENCE_S)
    assert not opening.is_alive()
