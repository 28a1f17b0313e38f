"""What the exporter reads in each checkpoint of the zoo is what users' own loaders read there."""

from pathlib import Path

import pytest
import torch

from exporter.checkpoint import load_model, read_checkpoint
from exporter.tokens import CheckpointTokenizer, load_tokenizer
from tests.zoo.answers import TOLERANCE
from tests.zoo.case import Case
from tests.zoo.cases import CASES
from tests.zoo.outcome import complaint, outcome
from tests.zoo.reading import read
from tests.zoo.table import PATH, markdown
from tests.zoo.texts import PASSAGES, QUERY
from tests.zoo.witness import Ranker


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_checkpoint_is_read_as_its_own_loader_does_or_refused(case: Case, tmp_path: Path) -> None:
    found = outcome(case, case.build(tmp_path / "checkpoint"), read)
    assert complaint(case, found) is None


def test_names_are_one_checkpoint_each() -> None:
    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)


def test_the_table_is_current() -> None:
    assert PATH.read_text(encoding="utf-8") == markdown(CASES), "python -m tests.zoo.table"


@pytest.mark.parametrize("family", ["bert-cross-encoder", "xlm-r-cross-encoder"])
def test_of_a_long_pair_only_the_passage_is_cut(family: str, tmp_path: Path) -> None:
    """As the NIM does, on purpose: sentence-transformers cuts the longer text first. Fed with the
    same tokens, its model gives the same number."""
    (case,) = (case for case in CASES if case.name == f"{family}-fp32")
    directory = case.build(tmp_path)
    tokenizer = CheckpointTokenizer(load_tokenizer(directory, None), directory, None, 256)
    found, cut = tokenizer.encode(QUERY * 30, PASSAGES[0] * 30)
    assert cut
    ours = load_model(read_checkpoint(str(directory)))
    fed = {"input_ids": found.token_ids, "token_type_ids": found.type_ids}
    fed["attention_mask"] = [1] * len(found.token_ids)
    tensors = {name: torch.tensor([fed[name]]) for name in ours.inputs}
    with torch.inference_mode():
        wanted = Ranker(directory).model(**tensors).logits
        torch.testing.assert_close(ours(*tensors.values()), wanted, atol=TOLERANCE, rtol=0)
    assert len(found.token_ids) == 256
    query = tokenizer.encode(QUERY * 30, "")[0].token_ids
    assert found.token_ids[: len(query) - 1] == query[:-1]
