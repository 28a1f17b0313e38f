"""Which two rows of a language model's head become a judge's one row."""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import msgspec
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from exporter.checkpoint import Checkpoint, read_checkpoint
from exporter.errors import CheckpointRefused, NoWitness
from exporter.judge_head import with_head
from exporter.model_profile import ChosenProfile, choose_profile
from exporter.tokens import load_tokenizer
from exporter.witness import rank_witness
from exporter.witness.decoders import JudgeWitness
from tests.zoo import vocabularies
from tests.zoo.cases import CASES
from tests.zoo.qwen import QWEN3
from tests.zoo.weights import FILE

HEAD, TABLE = "lm_head.weight", "model.embed_tokens.weight"


def of_layout(layout: str, directory: Path) -> Path:
    (case,) = (one for one in CASES if (one.family, one.layout) == ("Qwen3 judge", layout))
    return case.build(directory / "checkpoint")


def headed(directory: Path, *words: str) -> Checkpoint:
    """The checkpoint with its head by these `words`, or by the profile's own."""
    checkpoint = read_checkpoint(str(directory))
    profile = choose_profile(None, checkpoint.architecture, checkpoint.kind)
    if words:
        facts = msgspec.structs.replace(profile.facts, words=words)
        profile = ChosenProfile("mine.toml", facts)
    return with_head(checkpoint, profile, load_tokenizer(directory, "qwen3"))[0]


def row(checkpoint: Checkpoint) -> torch.Tensor:
    return checkpoint.weights["score.weight"].read()


def test_a_prompt_in_parts_has_a_witness_where_its_loader_reads_them(tmp_path: Path) -> None:
    directory = of_layout("fp32", tmp_path)
    template = "{query}\n{passage}\n"
    told = "tokenize_apart of the profile"
    with pytest.raises(NoWitness, match=told):
        rank_witness(directory, directory, {"model_type": "llama_bidirec"}, template, apart=True)
    vocabularies.qwen(adds_eos=True).save(str(directory / "tokenizer.json"))
    with pytest.raises(NoWitness, match=told):
        JudgeWitness(directory, directory, template, ("yes", "no"), apart=True)


@pytest.mark.parametrize(
    ("layout", "table"),
    [
        ("fp32", HEAD),
        ("head tied to the words", TABLE),
        ("head saved beside the words that it is tied to", TABLE),
    ],
)
def test_the_row_is_the_difference_of_two(layout: str, table: str, tmp_path: Path) -> None:
    directory = of_layout(layout, tmp_path)
    yes, no = map(vocabularies.qwen().token_to_id, ("yes", "no"))
    rows = load_file(directory / FILE)[table]
    assert torch.equal(row(headed(directory)), rows[yes : yes + 1] - rows[no : no + 1])


def test_a_head_that_differs_from_the_words_it_is_tied_to_is_refused(tmp_path: Path) -> None:
    directory = of_layout("another head beside the words that it is tied to", tmp_path)
    with pytest.raises(CheckpointRefused, match=rf"{HEAD} differs from {TABLE}.*tie_word"):
        headed(directory)


def spaced() -> Tokenizer:
    """Spells yes and no as one token behind a blank alone."""
    return vocabularies.byte_level(
        vocabularies.QWEN_SPECIAL,
        single="$A",
        pair="$A $B",
        normalizer=None,
        spelled=("Ġyes", "Ġno"),
    )


def marked(*more: str) -> Tokenizer:
    """Puts a mark before a text, and into its words."""
    words = {word: number for number, word in enumerate(("<unk>", "▁yes", "▁no", *more))}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.add_special_tokens([*vocabularies.QWEN_SPECIAL, "<unk>"])
    return tokenizer


def made_with(tokenizer: Callable[[], Tokenizer], directory: Path) -> Path:
    directory.mkdir()
    QWEN3.folder("ForCausalLM", tokenizer)(directory)
    return directory


@pytest.mark.parametrize(
    ("tokenizer", "words", "names"),
    [
        (spaced, (" yes", " no"), ("Ġyes", "Ġno")),
        (spaced, (" yes",), ("Ġyes",)),
        (marked, ("yes", "no"), ("▁yes", "▁no")),
    ],
)
def test_a_word_is_the_one_token_that_the_tokenizer_makes_of_it(
    tokenizer: Callable[[], Tokenizer],
    words: tuple[str, ...],
    names: tuple[str, ...],
    tmp_path: Path,
) -> None:
    directory = made_with(tokenizer, tmp_path / "checkpoint")
    rows = load_file(directory / FILE)[HEAD]
    found = [rows[tokenizer().token_to_id(name)] for name in names]
    assert torch.equal(row(headed(directory, *words))[0], found[0] - sum(found[1:]))
    witness = JudgeWitness(directory, directory, "{query}{passage}", words)
    assert witness._ids == [tokenizer().token_to_id(name) for name in names]


@pytest.mark.parametrize(
    ("tokenizer", "words"),
    [
        (spaced, ("yes", "no")),  # several tokens without the blank
        (marked, ("maybe",)),  # unknown
        (partial(marked, "yes"), ("yes", "no")),  # a token of that name that no text gives
    ],
)
def test_other_words_are_refused(
    tokenizer: Callable[[], Tokenizer], words: tuple[str, ...], tmp_path: Path
) -> None:
    directory = made_with(tokenizer, tmp_path / "checkpoint")
    with pytest.raises(CheckpointRefused, match="wanted one"):
        headed(directory, *words)


def test_the_witness_wants_words_of_one_token_too(tmp_path: Path) -> None:
    directory = made_with(spaced, tmp_path / "checkpoint")
    with pytest.raises(NoWitness, match="'yes' as 3 tokens"):
        JudgeWitness(directory, directory, "{query}{passage}", ("yes", "no"))
