"""A byte order mark, Windows line ends and a missing last line end are not content, whoever wrote
the file."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest

from recipe.cluster import load_profile
from recipe.config_files import load
from recipe.data.reading import Reading, read
from recipe.data.rows import Broken
from recipe.evaluation.collection import read_collection
from recipe.generation.record import (
    Chunk,
    Evaluation,
    Evaluations,
    Mark,
    Overall,
    QaPair,
    Record,
)
from recipe.training.groups import read_groups
from tests.recipe.models.material import write_prep

MARK = Mark(9.0)
OPINION = Evaluation(
    relevance=MARK, accuracy=MARK, context_support=MARK, clarity=MARK, overall=Overall(9.0)
)
RECORD = Record(
    file_name=["a.md"],
    chunks=[Chunk(1, "the heron lives at the marsh")],
    deduplicated_qa_pairs=[QaPair(question="where?", answer="there", segment_ids=[1])],
    qa_evaluations=Evaluations([OPINION]),
)


def read_evaluation(folder: Path) -> Any:
    found = read_collection(folder / "eval_beir")
    return found.texts, found.queries, found.grades


# Each reader; the files in `folder` exist already.
READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "settings in TOML": ("c.toml", lambda folder: load(str(folder / "c.toml"), ["finetune"])),
    "settings in YAML": ("c.yaml", lambda folder: load(str(folder / "c.yaml"), ["finetune"])),
    "profiles of clusters": ("env.toml", lambda folder: load_profile("mine", folder)),
    "records": (
        "records.jsonl",
        lambda folder: read(str(folder / "records.jsonl"), Reading(), Broken(0), print),
    ),
    "passages": ("eval_beir/corpus.jsonl", read_evaluation),
    "queries": ("eval_beir/queries.jsonl", read_evaluation),
    "judgements": ("eval_beir/qrels/test.tsv", read_evaluation),
    "training data": (
        "train_mined.json",
        lambda folder: read_groups(folder / "train_mined.json", 3),
    ),
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """All of these files, as this project writes them."""
    write_prep(tmp_path)
    line = msgspec.json.encode(RECORD) + b"\n"
    (tmp_path / "records.jsonl").write_bytes(line * 2)
    (tmp_path / "c.toml").write_text('[finetune]\nbase_model = "a/b"\nseed = 7\n')
    (tmp_path / "c.yaml").write_text("finetune:\n  base_model: a/b\n  seed: 7\n")
    (tmp_path / "env.toml").write_text('[mine]\ninfra = "k8s"\nremote_dir = "/r"\n')
    return tmp_path


@pytest.mark.parametrize(("name", "reads"), READERS.values(), ids=READERS)
def test_marks_and_line_ends_are_not_content(
    folder: Path, name: str, reads: Callable[[Path], Any]
) -> None:
    file, wanted = folder / name, reads(folder)
    plain = file.read_bytes()
    windows = plain.replace(b"\n", b"\r\n").removesuffix(b"\r\n")
    for content in (b"\xef\xbb\xbf" + plain, windows, b"\xef\xbb\xbf" + windows):
        file.write_bytes(content)
        assert reads(folder) == wanted
