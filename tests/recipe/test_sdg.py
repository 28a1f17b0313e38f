"""sdg: the offline generator, and the endpoint's against one that fails in many ways."""

import json
import os
import subprocess
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from itertools import pairwise
from pathlib import Path

import pytest

from recipe.config import SdgConfig
from recipe.errors import BadInput
from recipe.generation import endpoint as endpoint_module
from recipe.generation.chunks import chunk_document, sentences
from recipe.generation.corpus import read_corpus, split_sections
from recipe.generation.endpoint import Endpoint
from tests.recipe.conftest import KEY, PATIENCE_S, write_corpus
from tests.recipe.killing import killed_after
from tests.recipe.openai_stand_in import StandIn

Rerank = Callable[..., subprocess.CompletedProcess[str]]
FILE = Path("output/rerank/stage0_sdg/nv_pp_random.jsonl")
UNWAITING = "from recipe.generation import endpoint; endpoint._MIN_BACKOFF_S = 0"
QUICK = ("num_pairs=7", "sentences_per_chunk=3", "max_attempts=8")


@pytest.fixture
def unwaiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """Retries without delay."""
    monkeypatch.setattr(endpoint_module, "_MIN_BACKOFF_S", 0.0)
    monkeypatch.setattr(endpoint_module, "_MIN_PAUSE_S", 0.0)


class Clock:
    """A clock that advances only by sleeping."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s

    def sleep(self, wait_s: float) -> None:
        self.now_s += wait_s


def records(file: Path) -> list[dict]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_extractive_takes_headings_and_held_out_sentences(
    rerank: Rerank, corpus: Path, tmp_path: Path
) -> None:
    done = rerank("sdg", f"corpus_dir={corpus}", "generator=extractive")
    assert done.returncode == 0, done.stderr
    found = records(tmp_path / FILE)
    assert len(found) == 12
    kinds = set()
    for record in found:
        texts = {chunk["chunk_id"]: chunk["text"] for chunk in record["chunks"]}
        pairs = record["deduplicated_qa_pairs"]
        assert len(pairs) == len(record["qa_evaluations"]["evaluations"])
        for pair in pairs:
            kinds.add(pair["query_type"])
            assert all(pair["question"] not in texts[name] for name in pair["segment_ids"])
    assert kinds == {"contextual", "structural"}
    manifest = json.loads((tmp_path / FILE).with_name("generation_result.json").read_text())
    assert manifest == {
        "schema_version": 1,
        "dataset_name": "nv_pp_random",
        "output_path": "nv_pp_random.jsonl",
    }


def test_a_finished_output_is_kept_unless_forced(
    rerank: Rerank, corpus: Path, tmp_path: Path
) -> None:
    arguments = ("sdg", f"corpus_dir={corpus}", "generator=extractive")
    rerank(*arguments)
    before = (tmp_path / FILE).stat().st_mtime_ns
    again = rerank(*arguments)
    assert again.returncode == 0
    assert "already finished" in again.stderr
    other = rerank(*arguments, "seed=7")
    assert other.returncode == 1
    assert "seed = 42, wanted 7" in other.stderr
    assert (tmp_path / FILE).stat().st_mtime_ns == before
    write_corpus(tmp_path / "more")
    (corpus / "new.md").write_text("# News\n\n" + "A new animal came to the marsh today. " * 4)
    assert "another content" in rerank(*arguments).stderr
    assert rerank(*arguments, "seed=7", "--force").returncode == 0
    mark = json.loads((tmp_path / FILE).with_name("done.json").read_text())
    assert (mark["seed"], mark["settings"]["seed"], mark["stage"]) == (7, 7, "sdg")
    assert mark["inputs"].keys() == {str(corpus)}
    assert mark["versions"]["python"]


@pytest.mark.usefixtures("unwaiting")
def test_the_endpoint_fails_in_every_way_and_nothing_is_lost_or_counted_twice(
    rerank: Rerank, corpus: Path, tmp_path: Path, stand_in: Callable[..., StandIn]
) -> None:
    endpoint = stand_in()
    arguments = (f"corpus_dir={corpus}", f"endpoint={endpoint.url}", *QUICK)
    done = rerank("sdg", *arguments, "max_parallel_requests_for_gen=3", NVIDIA_API_KEY=KEY)
    assert done.returncode == 0, done.stderr
    found = records(tmp_path / FILE)
    assert [record["file_name"] for record in found] == sorted(r["file_name"] for r in found)
    assert len(found) == 12
    for record in found:
        questions = [pair["question"] for pair in record["deduplicated_qa_pairs"]]
        assert len(set(questions)) == len(questions)
        assert len(record["qa_evaluations"]["evaluations"]) == len(questions)
        asked = {name for pair in record["deduplicated_qa_pairs"] for name in pair["segment_ids"]}
        assert asked == {chunk["chunk_id"] for chunk in record["chunks"]}
    good = dict(endpoint.good)
    # Artifacts, pairs, scores and embeddings of every document, each answered well exactly once.
    assert len(good) == 4 * 12
    assert set(good.values()) == {1}
    assert {"429", "500", "cut"} <= set(endpoint.failed)
    assert endpoint.most_at_once <= 3
    assert "36 answers of 360 + 180 tokens, 12 of embeddings" in done.stderr
    assert KEY not in done.stderr + done.stdout
    # Paid answers are used again.
    forced = rerank("sdg", "--force", "seed=7", *arguments, NVIDIA_API_KEY=KEY)
    assert "36 answers of 360 + 180 tokens" in forced.stderr
    assert endpoint.good == good
    for path in (tmp_path / "output").rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes()


@pytest.mark.usefixtures("unwaiting")
def test_a_killed_run_goes_on_and_asks_nothing_twice(
    rerank: Rerank,
    corpus: Path,
    tmp_path: Path,
    stand_in: Callable[..., StandIn],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("NVIDIA_API_KEY", KEY)
    endpoint = stand_in()
    arguments = ["sdg", f"corpus_dir={corpus}", f"endpoint={endpoint.url}", *QUICK]
    journal = (tmp_path / FILE).with_name("answers.jsonl")
    keeps = "recipe.generation.endpoint:Endpoint._store"
    killed_after(keeps, 16, *arguments, folder=tmp_path, first=UNWAITING)
    assert not (tmp_path / FILE).exists()
    with journal.open("ab") as file:
        file.write(b'{"key": "a line that the kill tore')
    kept = journal.read_bytes().count(b"\n")
    done = rerank(*arguments)
    assert done.returncode == 0, done.stderr
    # Only requests in flight when it died were answered and then lost.
    assert sum(times - 1 for times in endpoint.good.values()) <= 4
    assert journal.read_bytes().count(b"\n") == 36 > kept > 0
    resumed = (tmp_path / FILE).read_bytes()
    straight = rerank(*arguments, "output_dir=straight")
    assert straight.returncode == 0
    assert (tmp_path / "straight" / FILE.name).read_bytes() == resumed


def test_a_refused_key_stops_at_once_and_is_not_shown(
    rerank: Rerank, corpus: Path, stand_in: Callable[..., StandIn]
) -> None:
    secret = "nvapi-another-secret"
    url = stand_in().url
    done = rerank("sdg", f"corpus_dir={corpus}", f"endpoint={url}", *QUICK, NVIDIA_API_KEY=secret)
    assert done.returncode == 1
    assert "status 401" in done.stderr
    assert secret not in done.stderr


@pytest.mark.usefixtures("unwaiting")
def test_an_endpoint_that_never_answers_well_is_given_up(
    rerank: Rerank, corpus: Path, tmp_path: Path, stand_in: Callable[..., StandIn]
) -> None:
    url = stand_in(always=503).url
    arguments = ("sdg", f"corpus_dir={corpus}", f"endpoint={url}", *QUICK[:2], "max_attempts=2")
    done = rerank(*arguments, NVIDIA_API_KEY=KEY)
    assert done.returncode == 1
    assert "no usable answer in 2 attempts" in done.stderr
    assert not (tmp_path / FILE).with_name("done.json").exists()


def test_without_a_key_nothing_is_asked(rerank: Rerank, corpus: Path) -> None:
    done = rerank("sdg", f"corpus_dir={corpus}", NVIDIA_API_KEY="")
    assert done.returncode == 1
    assert "generator=extractive" in done.stderr


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("buffer_size=10", "wanted 200: every answer is written"),
        ("embed_provider=openai", "by its URL in endpoint"),
        ("dataset_name=a/b", "wanted a plain file name"),
        ("corpus_dir=", "found an empty corpus_dir"),
        ("endpoint=integrate.api.nvidia.com", "wanted a base URL such as"),
        ("embed_endpoint=http://h:port", "found embed_endpoint = 'http://h:port'"),
    ],
)
def test_settings_that_cannot_be_are_refused(
    rerank: Rerank, corpus: Path, setting: str, message: str
) -> None:
    done = rerank("sdg", f"corpus_dir={corpus}", "generator=extractive", setting)
    assert done.returncode == 1
    assert message in done.stderr


def test_the_data_set_has_the_name_that_was_asked_for(
    rerank: Rerank, corpus: Path, tmp_path: Path
) -> None:
    arguments = ("generator=extractive", "dataset_name=animals")
    done = rerank("sdg", f"corpus_dir={corpus}", *arguments)
    assert done.returncode == 0, done.stderr
    home = tmp_path / FILE.parent
    manifest = json.loads((home / "generation_result.json").read_text())
    assert (manifest["dataset_name"], manifest["output_path"]) == ("animals", "animals.jsonl")
    assert len(records(home / "animals.jsonl")) == 12


def test_again_after_0_s_is_not_asked_without_a_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, times = Clock(), list[float]()
    monkeypatch.setattr(endpoint_module, "time", clock)

    class Impatient(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            times.append(clock.now_s)
            self.rfile.read(int(self.headers["content-length"]))
            busy = len(times) <= 4
            self.send_response(429 if busy else 200)
            self.send_header("retry-after", "0")
            self.end_headers()
            self.wfile.write(b"{}")

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Impatient) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        with Endpoint(
            url,
            "",
            tmp_path / "journal",
            timeout_s=PATIENCE_S,
            max_attempts=1,
            connections=1,
            log=lambda _: None,
        ) as endpoint:
            assert endpoint.ask("/x", {}, lambda body: body) == {}
        server.shutdown()
    waits_s = [after - before for before, after in pairwise(times)]
    assert waits_s == pytest.approx([0.1, 0.2, 0.4, 0.8])


def test_preview_looks_at_two_documents_beside_the_output(
    rerank: Rerank, corpus: Path, tmp_path: Path
) -> None:
    done = rerank("sdg", f"corpus_dir={corpus}", "generator=extractive", "preview=true")
    assert done.returncode == 0, done.stderr
    assert len(records(tmp_path / FILE.parent / "preview" / FILE.name)) == 2
    assert not (tmp_path / FILE).exists()


def test_a_corpus_of_the_hub_is_pinned_and_taken_from_its_cache(
    rerank: Rerank, corpus: Path, tmp_path: Path, hub_cache: Path
) -> None:
    revision = "1c0d1856f3fb595b2dda98d4b61061fa6d782d51"
    folder = hub_cache / "datasets--someone--texts" / "snapshots" / revision
    folder.mkdir(parents=True)
    corpus.rename(folder / "sample")
    (folder / "elsewhere.txt").write_text("This text stands outside of the folder. " * 5)
    source = f"corpus_dir=hf://someone/texts@{revision}/sample"
    done = rerank("sdg", source, "generator=extractive")
    assert done.returncode == 0, done.stderr
    assert len(records(tmp_path / FILE)) == 12
    mark = json.loads((tmp_path / FILE).with_name("done.json").read_text())
    assert mark["inputs"] == {source.partition("=")[2]: revision}
    (folder.parents[1] / "refs").mkdir()
    (folder.parents[1] / "refs" / "main").write_text(revision)
    moving = ("corpus_dir=hf://someone/texts@main/sample", "output_dir=moving")
    done = rerank("sdg", *moving, "generator=extractive")
    assert done.returncode == 0, done.stderr
    assert f"pinned to the commit {revision}" in done.stderr
    mark = json.loads((tmp_path / "moving" / "done.json").read_text())
    assert mark["inputs"] == {"hf://someone/texts@main/sample": revision}
    for wrong, message in (("texts@main/other", "no folder other"), ("none@main", "log in with")):
        done = rerank(
            "sdg",
            f"corpus_dir=hf://someone/{wrong}",
            "generator=extractive",
            "output_dir=wrong",
        )
        assert done.returncode == 1
        assert message in done.stderr
    whole = ("corpus_dir=hf://someone/texts@main", "output_dir=whole")
    done = rerank("sdg", *whole, "generator=extractive")
    assert done.returncode == 0, done.stderr
    unpinned = rerank("sdg", "corpus_dir=hf://someone/texts/sample", "generator=extractive")
    assert "the revision pins the data" in unpinned.stderr


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("image.txt", b"\x89PNG\r\n\x1a\n\x00\x00", "that are not UTF-8: image.txt"),
        ("latin.md", "Käse für alle".encode("latin-1"), "that are not UTF-8: latin.md"),
        ("zero.txt", b"text with \x00 in it", "that are not UTF-8: zero.txt"),
    ],
)
def test_files_that_are_no_text_are_named(
    corpus: Path, name: str, content: bytes, message: str
) -> None:
    (corpus / name).write_bytes(content)
    with pytest.raises(BadInput, match=message):
        read_corpus(SdgConfig(corpus_dir=str(corpus)), lambda _: None)


def test_a_file_whose_name_is_no_text_is_named(corpus: Path) -> None:
    Path(os.fsdecode(os.fsencode(corpus) + b"/k\xe4se.md")).write_text(
        "A text of no small size. " * 5
    )
    with pytest.raises(BadInput, match=r"not UTF-8: k\\udce4se\.md"):
        read_corpus(SdgConfig(corpus_dir=str(corpus)), lambda _: None)


def test_empty_and_missing_corpora_are_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="found no directory"):
        read_corpus(SdgConfig(corpus_dir=str(tmp_path / "none")), lambda _: None)
    (tmp_path / "short.txt").write_text("too short")
    with pytest.raises(BadInput, match="1 of them under min_text_length = 50"):
        read_corpus(SdgConfig(corpus_dir=str(tmp_path)), lambda _: None)


def test_repeated_documents_are_left_out(corpus: Path) -> None:
    first = next(iter(sorted(corpus.iterdir())))
    (corpus / "zz-copy.md").write_text(first.read_text())
    lines: list[str] = []
    found = read_corpus(SdgConfig(corpus_dir=str(corpus)), lines.append)
    assert len(found) == 12
    assert lines == ["left out 1 document(s) of 13: the same as another"]


def test_sections_follow_headings() -> None:
    text = "Title\n\nIntro text.\n\n## Part one\nBody one.\n\nPart two\n========\n\nBody two."
    found = [(section.heading, section.body) for section in split_sections(text)]
    assert found == [
        ("Title", "Intro text."),
        ("Part one", "Body one."),
        ("Part two", "Body two."),
    ]


def test_chunks_are_whole_sentences(corpus: Path) -> None:
    assert sentences('He said "No." Then he left. 3.5 kg remain.\n\nA list') == [
        'He said "No.',
        "Then he left.",
        "3.5 kg remain.",
        "A list",
    ]
    document = read_corpus(SdgConfig(corpus_dir=str(corpus)), lambda _: None)[0]
    chunks = chunk_document(document, 5, 50)
    assert all(chunk.endswith(".") for chunk in chunks)
