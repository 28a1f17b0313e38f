"""prep: files as in NVIDIA's recipe, the split, the margin, bad input, kills."""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from pyarrow import parquet

from recipe.config import PrepConfig
from recipe.data.reading import Reading, read
from recipe.data.rows import Broken, Source, passage_id
from recipe.durable import write_atomic, write_json
from recipe.errors import BadConfig, BadInput, StageFailed
from recipe.first_stage import BLOCK_TEXTS, Block, BlockEmbedder
from recipe.prep import STAGE
from recipe.preparation import files
from recipe.preparation.mining import Miner
from recipe.preparation.split import Question, convert
from recipe.stage import perform
from runtime.postprocess import Floats, unit
from tests.recipe.killing import killed_after
from tests.recipe.labelled_forms import sdg_record
from tests.recipe.stored import stored

GOLDENS = Path(__file__).parent / "goldens" / "prep"
GOLDEN_NAMES = (
    "train.json",
    "train_mined.automodel.json",
    "train_mined.automodel_unrolled.json",
    "corpus/merlin_metadata.json",
    "eval_beir/corpus.jsonl",
    "eval_beir/queries.jsonl",
    "eval_beir/qrels/test.tsv",
)
# Tolerance of scores of a seeded random model, on another CPU.
SCORE_TOLERANCE = 1e-4


def quiet(_: str) -> None:
    pass


def a_record(number: int, score: float = 9.0, files: tuple[str, ...] = ()) -> dict[str, Any]:
    mark = {"score": 8}
    opinion = dict.fromkeys(("relevance", "accuracy", "context_support", "clarity"), mark)
    texts = [
        f"In year {1800 + 7 * number} the town of number {number} built a {what} of stone."
        for what in ("bridge", "tower", "school")
    ]
    pairs = [
        {"question": f"Who built a bridge in {number}?", "answer": texts[0], "segment_ids": [1]},
        {"question": f"What stood in {number}?", "answer": texts[1], "segment_ids": [2, 3]},
    ]
    return {
        "file_name": list(files) or [f"town-{number}.txt"],
        "chunks": [{"chunk_id": i, "text": text} for i, text in enumerate(texts, start=1)],
        "deduplicated_qa_pairs": pairs,
        "qa_evaluations": {
            "evaluations": [
                {**opinion, "overall": {"score": score, "assessment": "good"}},
                {**opinion, "overall": {"score": score if number else 3.0}},
            ]
        },
    }


def write_records(file: Path, records: list[dict[str, Any]]) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file


@pytest.fixture
def settings(tmp_path: Path, embed_artifact: Path) -> PrepConfig:
    """Five towns, three passages each."""
    return PrepConfig(
        sdg_input_path=str(
            write_records(tmp_path / "records.jsonl", [a_record(i) for i in range(5)])
        ),
        output_dir=str(tmp_path / "out"),
        base_model=str(embed_artifact),
        embedder_dir=str(tmp_path / "embedders"),
        query_max_length=128,
        passage_max_length=128,
        hard_negatives_to_mine=2,
    )


def test_the_files_are_the_golden_ones(settings: PrepConfig) -> None:
    perform(STAGE, settings, force=False, log=quiet)
    out = Path(settings.output_dir)
    for name in GOLDEN_NAMES:
        found, wanted = (out / name).read_text(), (GOLDENS / name).read_text()
        if "mined" in name:
            assert_alike(json.loads(found), json.loads(wanted))
        else:
            assert found == wanted, name
    table = parquet.read_table(out / "corpus" / "train.parquet")
    assert [(f.name, str(f.type)) for f in table.schema] == [("id", "string"), ("text", "string")]
    lines = (out / "eval_beir" / "corpus.jsonl").read_text().splitlines()
    assert table.column("id").to_pylist() == [json.loads(line)["_id"] for line in lines]
    assert not (out / "val.json").exists()


def test_the_files_hold_what_nvidias_own_tests_assert(settings: PrepConfig, tmp_path: Path) -> None:
    """Records as those tests write them; assertions of test_data_formats.py in NVIDIA's recipe."""
    records = write_records(tmp_path / "theirs.jsonl", [sdg_record(n) for n in range(15)])
    ratios = {"train_ratio": 0.6, "val_ratio": 0.2, "test_ratio": 0.2}
    given = {"sdg_input_path": str(records), "hard_neg_margin": 1.0, "corpus_id": "theirs"}
    perform(STAGE, msgspec.structs.replace(settings, **given, **ratios), force=False, log=quiet)
    out = tmp_path / "out"
    corpus = parquet.read_table(out / "corpus" / "train.parquet")
    ids = corpus.column("id").to_pylist()
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"d_[0-9a-f]{16}", name) for name in ids)
    for split in ("train", "val"):
        content = json.loads((out / f"{split}.json").read_text())
        assert set(content) == {"corpus", "data"}
        assert content["corpus"] == {"path": "./corpus/"}
        asked = [one["question_id"] for one in content["data"]]
        assert asked
        assert len(set(asked)) == len(asked)
        for one in content["data"]:
            assert one["corpus_id"] == "theirs"
            assert all(passage["id"] in ids for passage in one["pos_doc"])
    unrolled = json.loads((out / "train_mined.automodel_unrolled.json").read_text())
    assert all(len(one["pos_doc"]) == 1 for one in unrolled["data"])
    queries = [
        json.loads(row) for row in (out / "eval_beir/queries.jsonl").read_text().splitlines()
    ]
    assert all({"file_name", "segment_ids"} <= set(one["metadata"]) for one in queries)
    header, *judged = (out / "eval_beir" / "qrels" / "test.tsv").read_text().splitlines()
    assert header == "query-id\tcorpus-id\tscore"
    assert {row.split("\t")[2] for row in judged} == {"1"}


def assert_alike(found: Any, wanted: Any) -> None:
    """Equal but for the last digits of scores."""
    if isinstance(wanted, dict):
        assert list(found) == list(wanted)
        for key, value in wanted.items():
            assert_alike(found[key], value)
    elif isinstance(wanted, list):
        assert len(found) == len(wanted)
        for one, other in zip(found, wanted, strict=True):
            assert_alike(one, other)
    elif isinstance(wanted, float):
        assert found == pytest.approx(wanted, abs=SCORE_TOLERANCE)
    else:
        assert found == wanted


def read_all(file: Path, most: int | None = 0) -> tuple[Source, list[str]]:
    """What is read of records, and what is said."""
    lines: list[str] = []
    broken = Broken(most)
    source = read(str(file), Reading(), broken, lines.append)
    broken.settle(file, lines.append)
    return source, lines + source.notes


def test_splits_share_no_file_and_low_scores_go(tmp_path: Path) -> None:
    records = [a_record(i) for i in range(20)]
    records[3] = a_record(3, 6.9)
    records[5] = a_record(5, files=("town-5.txt", "town-6.txt"))
    source, _ = read_all(write_records(tmp_path / "records.jsonl", records))
    ratios = PrepConfig(train_ratio=0.6, val_ratio=0.2, test_ratio=0.2)
    found = convert(source, ratios, quiet)
    files = {passage_id(c["text"]): r["file_name"][-1] for r in records for c in r["chunks"]}
    splits = [
        {files[name] for question in split for name in question.positives}
        for split in (found.train, found.val, found.test)
    ]
    assert not splits[0] & splits[1]
    assert not splits[0] & splits[2]
    assert not splits[1] & splits[2]
    assert set().union(*splits) == {f"town-{i}.txt" for i in range(20)} - {
        "town-3.txt",
        "town-5.txt",
    }
    assert len([*found.train, *found.val, *found.test]) == 2 * 19 - 1
    assert convert(source, PrepConfig(seed=42), quiet) != convert(
        source, PrepConfig(seed=43), quiet
    )


def test_the_margin_leaves_out_what_may_be_an_answer(tmp_path: Path) -> None:
    passages = np.array([[1.0, 0], [0.96, 0.28], [0.94, 0.34], [0.6, 0.8], [0, 1]], np.float32)
    names = list("abcde")
    miner = Miner(
        names, stored(tmp_path, passages), 2, 0.95, {"train": frozenset(), "val": frozenset("c")}
    )
    (mined,) = miner(("train", [Question("q", "?", ("a",))], np.array([[1.0, 0]], np.float32)))
    assert mined.positives == [("a", 1.0)]
    assert [name for name, _ in mined.negatives] == ["c", "d"]
    # The lowest of several positives counts: 0.95 × 0.6.
    (mined,) = miner(("train", [Question("q", "?", ("a", "d"))], np.array([[1.0, 0]], np.float32)))
    assert [name for name, _ in mined.negatives] == ["e"]
    # What is barred is no negative, and given ones come first and count.
    (mined,) = miner(("val", [Question("q", "?", ("a",))], np.array([[1.0, 0]], np.float32)))
    assert [name for name, _ in mined.negatives] == ["d", "e"]
    given = Question("q", "?", ("a",), ("e",))
    (mined,) = miner(("train", [given], np.array([[1.0, 0]], np.float32)))
    assert [name for name, _ in mined.negatives] == ["e", "c"]


def test_mining_in_blocks_finds_what_brute_force_finds(tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    vectors = unit(random.standard_normal((700, 6)).astype(np.float32))
    names = [f"d{n}" for n in range(700)]
    barred = frozenset(names[::7])
    questions = [
        Question(
            f"q{n}",
            "?",
            (f"d{n}", f"d{n + 300}"),
            (f"d{n + 650}",),
            alike=frozenset([names[n + 1]]),
        )
        for n in range(40)
    ]
    asked = unit(vectors[:40] + 0.4 * random.standard_normal((40, 6)).astype(np.float32))
    miner = Miner(names, stored(tmp_path, vectors, 64), 9, 0.9, {"train": barred})
    for one, vector, mined in zip(
        questions, asked, miner(("train", questions, asked)), strict=True
    ):
        scores = dict(zip(names, vectors.astype(np.float64) @ vector, strict=True))
        most = 0.9 * min(scores[name] for name in one.positives)
        out = {*one.answers, *one.negatives, *barred}
        left = [name for name in names if name not in out and scores[name] <= most]
        best = sorted(left, key=lambda name: -scores[name])[:8]
        assert [name for name, _ in mined.negatives] == [*one.negatives, *best]
        assert [name for name, _ in mined.positives] == [*one.positives]
        for name, score in (*mined.positives, *mined.negatives):
            assert score == pytest.approx(scores[name], abs=2e-6)


def test_broken_rows_are_named_and_left_out_up_to_the_limit_asked_for(tmp_path: Path) -> None:
    file = write_records(tmp_path / "records.jsonl", [a_record(i) for i in range(4)])
    rows = file.read_bytes().split(b"\n")
    rows[1] = rows[1][:40]
    rows[2] = b"\xff\xfe"
    file.write_bytes(b"\n".join(rows))
    for most in (0, 1):
        with pytest.raises(BadInput, match=r"found 2 broken row.*line 2: .*line 3: is not UTF-8"):
            read_all(file, most)
    source, lines = read_all(file, 2)
    assert len(source.rows) == 4
    assert [line.partition(":")[0] for line in lines] == ["left out 2 broken row(s)"]


def broken_record(change: Callable[[dict[str, Any]], Any]) -> dict[str, Any]:
    record = a_record(0)
    change(record)
    return record


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            lambda r: r["deduplicated_qa_pairs"][0].update(segment_ids=[9]),
            "a pair names the chunk 9",
        ),
        (lambda r: r["chunks"][1].update(chunk_id=1), "the chunk id 1 occurs more than once"),
        (lambda r: r.update(file_name=[]), "file_name is empty"),
        (lambda r: r.pop("file_name"), "file_name"),
        (lambda r: r["deduplicated_qa_pairs"][1].update(question=" "), "a question is blank"),
        (lambda r: r["chunks"][0].update(text="a\0b"), "the chunk 1 is not text"),
        (
            lambda r: r["qa_evaluations"]["evaluations"][0].update(overall={"score": 11}),
            "a score is 11, wanted 0 to 10",
        ),
    ],
)
def test_a_record_that_cannot_be_used_is_named(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], why: str
) -> None:
    file = write_records(tmp_path / "a.jsonl", [a_record(1), broken_record(change)])
    with pytest.raises(BadInput, match=rf"found 1 broken row.*line 2: .*{why}"):
        read_all(file)


def test_records_without_an_opinion_for_each_pair_are_left_out(tmp_path: Path) -> None:
    uneven, unjudged = a_record(0), a_record(2)
    uneven["qa_evaluations"]["evaluations"].pop()
    unjudged["qa_evaluations"] = None
    file = write_records(tmp_path / "records.jsonl", [uneven, a_record(1), unjudged])
    source, lines = read_all(file)
    assert len(source.rows) == 2
    assert lines == [
        "left out 1 records without an evaluation for each pair",
        "left out 1 records that no judge has scored",
    ]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"train_ratio": 0.9}, BadConfig, "= 1.1, wanted 1"),
        ({"hard_negatives_to_mine": 50}, BadInput, "found 15 passages"),
        ({"quality_threshold": 9.5}, BadInput, "quality_threshold = 9.5"),
        ({"query_prefix": "search:"}, BadConfig, "query_prefix = 'search:'"),
        ({"passage_max_length": 100_000}, BadConfig, "100000 tokens"),
    ],
)
def test_what_cannot_work_is_refused_before_mining(
    settings: PrepConfig, changes: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        perform(STAGE, msgspec.structs.replace(settings, **changes), force=False, log=quiet)
    assert not (Path(settings.output_dir) / "train_mined.automodel.json").exists()


def test_questions_without_enough_negatives_below_the_margin_are_left_out(
    settings: PrepConfig,
) -> None:
    lines: list[str] = []
    low = msgspec.structs.replace(settings, hard_neg_margin=0.7)
    perform(STAGE, low, force=False, log=lines.append)
    assert "left out 6 question(s) with fewer than 2 negatives below the margin" in lines
    # Where it computes, and how far it is.
    assert any(line.startswith("the first stage runs on the ") for line in lines)
    assert "mine, questions: 7 of 7" in lines
    mined = (Path(settings.output_dir) / "train_mined.automodel.json").read_bytes()
    assert [one["question_id"] for one in json.loads(mined)["data"]] == ["q6"]
    lower = msgspec.structs.replace(settings, hard_neg_margin=0.5)
    with pytest.raises(StageFailed, match="no question has 2 negatives below"):
        perform(STAGE, lower, force=True, log=quiet)


def test_one_file_cannot_be_split(settings: PrepConfig) -> None:
    write_records(Path(settings.source), [a_record(1)])
    with pytest.raises(BadInput, match=r"found 1 separate group\(s\) of questions"):
        perform(STAGE, settings, force=False, log=quiet)


def test_a_run_that_is_ended_again_and_again_ends_in_the_same_files(
    settings: PrepConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_records(Path(settings.source), [a_record(i) for i in range(100)])
    # While writing its first files, which need no vectors.
    with monkeypatch.context() as patch:
        patch.setattr(files, "write_atomic", ending_after(write_atomic, "queries.jsonl"))
        with pytest.raises(KeyboardInterrupt):
            perform(STAGE, settings, force=False, log=quiet)
    assert not (tmp_path / "out" / "train.json").exists()
    # After the vectors of the questions and of some passages.
    usual = msgspec.to_builtins(PrepConfig())
    arguments = [
        f"{key}={value}"
        for key, value in msgspec.to_builtins(settings).items()
        if value != usual[key]
    ]
    killed_after("recipe.first_stage:write_vectors", 2, "prep", *arguments, folder=tmp_path)
    assert len(list((tmp_path / "embedders" / "vectors").iterdir())) == 2
    # Between the two files of mined negatives: only the remaining vectors were computed.
    embedded: list[int] = []
    embed = BlockEmbedder.__call__

    def counted(embedder: BlockEmbedder, block: Block) -> Floats:
        embedded.append(len(block[0]))
        return embed(embedder, block)

    with monkeypatch.context() as patch:
        patch.setattr(BlockEmbedder, "__call__", counted)
        patch.setattr(files, "write_json", ending_after(write_json, "train_mined.automodel.json"))
        with pytest.raises(KeyboardInterrupt):
            perform(STAGE, settings, force=False, log=quiet)
    assert embedded == [3 * 100 - BLOCK_TEXTS]
    assert not (tmp_path / "out" / "done.json").exists()
    perform(STAGE, settings, force=False, log=quiet)
    straight = msgspec.structs.replace(settings, output_dir=str(tmp_path / "straight"))
    perform(STAGE, straight, force=False, log=quiet)
    assert contents(tmp_path / "out") == contents(tmp_path / "straight")


@pytest.mark.parametrize("content", [b"", b"\x93NUMPY\x01\0", b"years of work"])
def test_vectors_that_are_damaged_are_computed_again(
    settings: PrepConfig, tmp_path: Path, content: bytes
) -> None:
    perform(STAGE, settings, force=False, log=quiet)
    for file in (tmp_path / "embedders" / "vectors").iterdir():
        file.write_bytes(content)
    again = msgspec.structs.replace(settings, output_dir=str(tmp_path / "again"))
    perform(STAGE, again, force=False, log=quiet)
    assert contents(tmp_path / "again") == contents(tmp_path / "out")


def ending_after(write: Callable[[Path, Any], None], name: str) -> Callable[[Path, Any], None]:
    """`write`, followed by an interrupt when it has written the file `name`."""

    def ending(path: Path, content: Any) -> None:
        write(path, content)
        if path.name == name:
            raise KeyboardInterrupt

    return ending


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != "done.json"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}
