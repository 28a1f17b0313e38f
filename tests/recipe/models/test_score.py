"""rerank score and rerank compare."""

import json
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from recipe.cli import main
from recipe.durable import JournalWriter
from recipe.score import CHUNK_LINES
from runtime.opening import open_ranker
from runtime.outputs import MARK, locked_work_folder
from runtime.requests import RankRequest
from tests.dying import die_everywhere
from tests.recipe.killing import environment, killed_after
from tests.recipe.models.material import passage, question, write_lines
from tests.shared_artifacts import made_once, session_folder
from tests.trees import tree

pytestmark = pytest.mark.usefixtures("undrawn")


def write_asked(file: Path) -> Path:
    rows = [
        {"id": n, "query": question(n % 24), "passages": [passage((n + k) % 24) for k in range(3)]}
        for n in range(80)
    ]
    write_lines(file, rows)
    return file


@pytest.fixture
def asked(tmp_path: Path) -> Path:
    return write_asked(tmp_path / "in.jsonl")


def test_scores_are_those_of_the_ranker(asked: Path, rank_artifact: Path) -> None:
    out = asked.with_name("out.jsonl")
    before = set(threading.enumerate())
    assert main(["score", str(asked), str(out), "--rank", str(rank_artifact)]) == 0
    assert before.issuperset(threading.enumerate())  # its rankers are closed
    rows = [json.loads(line) for line in out.read_text().splitlines()]
    assert [row["id"] for row in rows] == list(range(80))
    with closing(open_ranker(rank_artifact)) as ranker:
        wanted = ranker.rank(RankRequest(question(5), [passage(5), passage(6), passage(7)])).logits
    assert rows[5]["scores"] == wanted.tolist()
    assert sorted(path.name for path in asked.parent.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_a_killed_run_goes_on_to_the_same_file(
    asked: Path, rank_artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole, broken_off = asked.with_name("whole.jsonl"), asked.with_name("again.jsonl")
    rank = ["--rank", str(rank_artifact)]
    assert main(["score", str(asked), str(whole), *rank]) == 0
    command = ["score", str(asked), str(broken_off), *rank]
    killed_after("recipe.durable:JournalWriter.write", 1, *command, folder=asked.parent)
    assert not broken_off.exists()
    assert main(command) == 0
    assert f"lines: {CHUNK_LINES} of 80 were already done" in capsys.readouterr().err
    assert broken_off.read_bytes() == whole.read_bytes()


def test_broken_lines_are_numbered_and_left_out_only_when_asked(
    asked: Path, rank_artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = asked.read_text().splitlines()
    lines[3], lines[7] = "{broken", '{"query": "  ", "passages": ["x"]}'
    asked.write_text("\n".join(lines) + "\n")
    command = ["score", str(asked), str(asked.with_name("out.jsonl")), "--rank", str(rank_artifact)]
    assert main(command) == 1
    assert "2 line(s)" in (output := capsys.readouterr().err)
    assert "(4, 8)" in output
    assert main([*command, "--skip-broken"]) == 0
    assert len(asked.with_name("out.jsonl").read_text().splitlines()) == 78


def test_a_finished_file_is_not_replaced(
    asked: Path, rank_artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = asked.with_name("out.jsonl")
    out.write_text("mine\n")
    assert main(["score", str(asked), str(out), "--rank", str(rank_artifact)]) == 1
    assert "--force" in capsys.readouterr().err
    assert out.read_text() == "mine\n"


Places = Callable[[Path], tuple[Path, Path]]


def by_a_link(asked: Path) -> tuple[Path, Path]:
    asked.with_name("link.jsonl").symlink_to(asked)
    return asked, asked.with_name("link.jsonl")


def by_a_hard_link(asked: Path) -> tuple[Path, Path]:
    os.link(asked, asked.with_name("hard.jsonl"))
    return asked, asked.with_name("hard.jsonl")


def in_the_folder_of_the_work(asked: Path) -> tuple[Path, Path]:
    folder = asked.with_name(".out.jsonl.rerank-score")
    folder.mkdir()
    (folder / MARK).touch()
    return asked.rename(folder / "journal.jsonl"), asked.with_name("out.jsonl")


def as_the_mark_of_that_folder(asked: Path) -> tuple[Path, Path]:
    folder = asked.with_name(".out.jsonl.rerank-score")
    folder.mkdir()
    return asked.rename(folder / MARK), asked.with_name("out.jsonl")


ONES_OWN: dict[str, Places] = {
    "itself": lambda asked: (asked, asked),
    "another spelling": lambda asked: (
        asked,
        asked.parent / "." / ".." / asked.parent.name / asked.name,
    ),
    "a link to it": by_a_link,
    "read by a link": lambda asked: by_a_link(asked)[::-1],
    "a hard link to it": by_a_hard_link,
    "in the folder of the work": in_the_folder_of_the_work,
    "the mark of that folder": as_the_mark_of_that_folder,
}


@pytest.mark.parametrize("force", [[], ["--force"]], ids=["", "force"])
@pytest.mark.parametrize("places", ONES_OWN.values(), ids=ONES_OWN)
def test_the_input_is_never_the_output(
    asked: Path,
    rank_artifact: Path,
    capsys: pytest.CaptureFixture[str],
    places: Places,
    force: list[str],
) -> None:
    source, out = places(asked)
    before = tree(asked.parent)
    assert main(["score", str(source), str(out), "--rank", str(rank_artifact), *force]) == 1
    assert "input" in capsys.readouterr().err
    assert tree(asked.parent) == before


def test_a_file_of_the_artifact_is_never_the_output(
    asked: Path, rank_artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = shutil.copytree(rank_artifact, asked.with_name("artifact"))
    before = tree(artifact)
    for name in ("model.onnx", "scores.jsonl", "tokenizer/tokenizer.json"):
        command = ["score", str(asked), str(artifact / name), "--rank", str(artifact), "--force"]
        assert main(command) == 1
        assert "name another output" in capsys.readouterr().err
    assert tree(artifact) == before


@pytest.mark.parametrize("name", ["out.jsonl.partial", "out.jsonl.head", ".out.jsonl.partial"])
@pytest.mark.parametrize("force", [[], ["--force"]], ids=["", "force"])
def test_an_input_may_have_any_name_beside_the_output(
    asked: Path, rank_artifact: Path, name: str, force: list[str]
) -> None:
    source = asked.rename(asked.with_name(name))
    before, out = source.read_bytes(), asked.with_name("out.jsonl")
    assert main(["score", str(source), str(out), "--rank", str(rank_artifact), *force]) == 0
    assert source.read_bytes() == before
    assert len(out.read_bytes().splitlines()) == 80


def test_a_second_run_on_one_output_is_refused_and_changes_nothing(
    asked: Path, rank_artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, link = asked.with_name("out.jsonl"), asked.with_name("link.jsonl")
    link.symlink_to(out)
    rank = ["--rank", str(rank_artifact)]
    two = asked.with_name("two.jsonl")
    two.write_text('{"query": "q", "passages": ["p"]}\n')
    with locked_work_folder(out, "rerank-score") as folder:
        (folder / "journal.jsonl").write_text("the first one's\n")
        before = tree(asked.parent)
        for spelled in (out, link, asked.parent / "." / out.name):
            for force in ([], ["--force"]):
                assert main(["score", str(two), str(spelled), *rank, *force]) == 1
                assert f"another command writes {spelled}" in capsys.readouterr().err
        assert tree(asked.parent) == before
        assert main(["score", str(two), str(asked.with_name("other.jsonl")), *rank]) == 0
        (folder / "journal.jsonl").unlink()


def test_two_runs_at_once_leave_the_scores_of_one(asked: Path, rank_artifact: Path) -> None:
    """Two processes that start once both are ready; the refused one says so."""
    out, other = asked.with_name("out.jsonl"), asked.with_name("other.jsonl")
    rows = [{"id": f"b{n}", "query": question(n), "passages": [passage(n)]} for n in range(24)]
    write_lines(other, rows)
    rank = ["--rank", str(rank_artifact)]
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "recipe.cli", "score", str(source), str(out), *rank],
            env=environment(),
            stderr=subprocess.PIPE,
            text=True,
        )
        for source in (asked, other)
    ]
    output = [one.communicate()[1] for one in running]
    codes = [one.returncode for one in running]
    assert sorted(codes) == [0, 1], output
    assert (
        "another command writes" in output[codes.index(1)]
        or "exists; name" in output[codes.index(1)]
    )
    found = [json.loads(line)["id"] for line in out.read_text().splitlines()]
    assert found == (list(range(80)) if codes[0] == 0 else [row["id"] for row in rows])


Damage = Callable[[bytes], bytes]
DAMAGED: dict[str, tuple[str, Damage]] = {
    "a torn head": ("head.json", lambda raw: raw[: len(raw) // 2]),
    "an empty head": ("head.json", lambda _: b""),
    "a head of something else": ("head.json", lambda _: b"\xff\xfe[]"),
    "a torn line": ("journal.jsonl", lambda raw: raw.replace(b"\n", b"", 1)),
    "a line of zeros": (
        "journal.jsonl",
        lambda raw: b"\0" * raw.index(b"\n") + raw[raw.index(b"\n") :],
    ),
    "another digit": ("journal.jsonl", lambda raw: changed_digit(raw)),
    "another order": ("journal.jsonl", lambda raw: b"".join(sorted(raw.splitlines(True))[::-1])),
    "a line twice": ("journal.jsonl", lambda raw: raw.splitlines(True)[0] + raw),
    "a line too few": ("journal.jsonl", lambda raw: b"".join(raw.splitlines(True)[1:])),
    "not a line of ours": ("journal.jsonl", lambda raw: b'{"scores":[1.0]}\n' + raw),
    "a deep line": (
        "journal.jsonl",
        lambda raw: b'{"check":"a","answer":' + b"[" * 90_000 + b"]" * 90_000 + b"}\n" + raw,
    ),
    "a deep head": ("head.json", lambda _: b'{"more":' + b"[" * 90_000),
    "a last line of others": ("journal.jsonl", lambda raw: raw + b"years of work"),
}


def changed_digit(raw: bytes) -> bytes:
    place = raw.index(b"scores") + len(b'scores":[-0.')
    return raw[:place] + (b"1" if raw[place : place + 1] != b"1" else b"2") + raw[place + 1 :]


@pytest.fixture(scope="session")
def half_done(rank_artifact: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which a run was killed after its first lines. Copy it before changing a file."""

    def run(folder: Path) -> None:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        write_asked(folder / "in.jsonl")
        command = ["score", "in.jsonl", "out.jsonl", "--rank", str(rank_artifact)]
        killed_after("recipe.durable:JournalWriter.write", 1, *command, folder=folder)

    return made_once(session_folder(tmp_path_factory) / "half-done", run)


@pytest.fixture
def resumed(half_done: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder, and the working directory of the test."""
    folder = shutil.copytree(half_done, tmp_path / "copy")
    monkeypatch.chdir(folder)
    return folder


@pytest.mark.parametrize(("name", "damage"), DAMAGED.values(), ids=DAMAGED)
def test_what_is_damaged_is_named_and_never_published(
    resumed: Path,
    rank_artifact: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    damage: Damage,
) -> None:
    file = resumed / ".out.jsonl.rerank-score" / name
    file.write_bytes(damage(file.read_bytes()))
    before = tree(resumed)
    command = ["score", "in.jsonl", "out.jsonl", "--rank", str(rank_artifact)]
    assert main(command) == 1
    output = capsys.readouterr().err
    assert name in output
    assert "--force" in output or "move the file away" in output
    assert tree(resumed) == before


@pytest.mark.parametrize("name", ["head.json", "journal.jsonl"])
@pytest.mark.parametrize("kind", ["directory", "link"])
@pytest.mark.parametrize("force", [[], ["--force"]], ids=["", "force"])
def test_what_is_no_file_in_the_folder_of_the_work_is_named_and_kept(
    resumed: Path,
    rank_artifact: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    kind: str,
    force: list[str],
) -> None:
    place = resumed / ".out.jsonl.rerank-score" / name
    if kind == "directory":
        place.unlink()
        place.mkdir()
    else:
        place.rename(resumed / "elsewhere")
        place.symlink_to(resumed / "elsewhere")
    before = tree(resumed)
    command = ["score", "in.jsonl", "out.jsonl", "--rank", str(rank_artifact), *force]
    assert main(command) == 1
    assert f"move {place.parent} away" in capsys.readouterr().err
    assert tree(resumed) == before


def test_another_input_is_not_mixed_with_what_was_scored(
    resumed: Path, rank_artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["score", "in.jsonl", "out.jsonl", "--rank", str(rank_artifact)]
    whole = (resumed / "in.jsonl").read_bytes()
    (resumed / "in.jsonl").write_bytes(whole.replace(b"rain", b"snow"))
    assert main(command) == 1
    assert "with other lines" in capsys.readouterr().err
    (resumed / "in.jsonl").write_bytes(b"\xef\xbb\xbf" + whole)  # the same except for the mark
    assert main(command) == 0
    assert "32 of 80 were already done" in capsys.readouterr().err
    lines = (resumed / "out.jsonl").read_text().splitlines()
    assert [json.loads(line)["id"] for line in lines] == list(range(80))
    assert sorted(path.name for path in resumed.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_an_input_that_changes_meanwhile_is_noticed(
    asked: Path,
    rank_artifact: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out, real = asked.with_name("out.jsonl"), JournalWriter.write

    def write(self: JournalWriter, *entries: object) -> None:
        real(self, *entries)
        asked.write_bytes(asked.read_bytes().replace(b"rain", b"snow"))

    monkeypatch.setattr(JournalWriter, "write", write)
    assert main(["score", str(asked), str(out), "--rank", str(rank_artifact)]) == 1
    assert "answers another line" in capsys.readouterr().err
    assert not out.exists()


def test_a_byte_order_mark_and_line_ends_are_not_content(asked: Path, rank_artifact: Path) -> None:
    rank = ["--rank", str(rank_artifact)]
    plain, other = asked.with_name("plain.jsonl"), asked.with_name("other.jsonl")
    assert main(["score", str(asked), str(plain), *rank]) == 0
    content = b"\xef\xbb\xbf" + asked.read_bytes().replace(b"\n", b"\r\n").removesuffix(b"\r\n")
    asked.write_bytes(content)
    assert main(["score", str(asked), str(other), *rank]) == 0
    assert other.read_bytes() == plain.read_bytes()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "no line that can be scored among 0"),
        (b"\n\n", "no line that can be scored among 2"),
        (b"\xff\xfe\x00", "no line that can be scored"),
        (b'{"query": "q", "passages": ["p"]}\n' + b"\xff\n", r"1 line(s)"),
        (b"[" * 100_000, "no line that can be scored"),
    ],
)
def test_an_input_without_lines_is_refused_and_leaves_nothing(
    tmp_path: Path,
    rank_artifact: Path,
    capsys: pytest.CaptureFixture[str],
    content: bytes,
    words: str,
) -> None:
    (tmp_path / "in.jsonl").write_bytes(content)
    command = ["score", str(tmp_path / "in.jsonl"), str(tmp_path / "out.jsonl")]
    assert main([*command, "--rank", str(rank_artifact)]) == 1
    assert words in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.jsonl"]


def test_a_dangling_link_is_followed(asked: Path, rank_artifact: Path) -> None:
    link, real = asked.with_name("link.jsonl"), asked.with_name("disk") / "real.jsonl"
    link.symlink_to(real)
    assert main(["score", str(asked), str(link), "--rank", str(rank_artifact)]) == 0
    assert link.is_symlink()
    assert sorted(path.name for path in real.parent.iterdir()) == ["real.jsonl"]


def test_only_files_are_read_and_written(
    asked: Path, rank_artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rank, pipe = ["--rank", str(rank_artifact), "--force"], asked.with_name("pipe")
    os.mkfifo(pipe)
    before = tree(asked.parent)
    for source, out in (
        (asked, pipe),
        (asked, asked.parent),
        (asked, Path("/dev/null")),
        (pipe, asked.with_name("out.jsonl")),
        (asked.parent, asked.with_name("out.jsonl")),
        (asked.with_name("absent"), asked.with_name("out.jsonl")),
    ):
        assert main(["score", str(source), str(out), *rank]) == 1
        assert "name a" in capsys.readouterr().err
    assert tree(asked.parent) == before


def test_force_keeps_the_old_scores_until_the_new_ones_are_there(
    asked: Path, rank_artifact: Path
) -> None:
    out = asked.with_name("out.jsonl")
    out.write_text("old\n")
    command = ["score", str(asked), str(out), "--rank", str(rank_artifact), "--force"]
    killed_after("recipe.durable:JournalWriter.write", 1, *command, folder=asked.parent)
    assert out.read_text() == "old\n"
    assert main(command) == 0
    assert len(out.read_text().splitlines()) == 80
    assert sorted(path.name for path in asked.parent.iterdir()) == ["in.jsonl", "out.jsonl"]


def test_a_run_that_is_killed_anywhere_goes_on_to_the_same_file(
    asked: Path, rank_artifact: Path
) -> None:
    whole, out = asked.with_name("whole.jsonl"), asked.with_name("again.jsonl")
    command = ["score", str(asked), str(whole), "--rank", str(rank_artifact)]
    assert main(command) == 0
    command[2] = str(out)
    setup = f"""
from pathlib import Path
from recipe.cli import main
whole, out = Path({str(whole)!r}), Path({str(out)!r})
"""
    deaths = die_everywhere(
        setup,
        f"assert main({command!r}) == (1 if out.exists() else 0)",
        "assert not out.exists() or out.read_bytes() == whole.read_bytes()",
        ".again.jsonl.rerank-score",
    )
    assert deaths > 5
    assert out.read_bytes() == whole.read_bytes()


def test_compare_finds_no_drift_in_an_export_and_drift_in_another_model(
    copied: Path, rank_artifact: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checkpoint = "output/rerank/stage2_finetune/checkpoints/LATEST/model/consolidated"
    artifact = "output/rerank/stage4_export/onnx"
    assert main(["compare", checkpoint, artifact, "-c", "c.toml"]) == 0
    assert "| A → B | +0.0000 |" in capsys.readouterr().out
    assert main(["compare", artifact, str(rank_artifact), "-c", "c.toml"]) == 1
    assert "B is below A past the tolerance" in capsys.readouterr().err


def test_compare_says_what_an_endpoint_that_is_away_is(
    copied: Path, refusing: str, capsys: pytest.CaptureFixture[str]
) -> None:
    artifact = "output/rerank/stage4_export/onnx"
    assert main(["compare", artifact, refusing, "-c", "c.toml"]) == 1
    assert "the endpoint returned no ranking" in capsys.readouterr().err
